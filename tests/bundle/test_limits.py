# Copyright (c) MONAI Consortium
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#     http://www.apache.org/licenses/LICENSE-2.0
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.

from __future__ import annotations

import signal
import threading
import time

import pytest
from scripts.bundle.limits import time_limit


def test_what_takes_too_long_is_an_error_and_the_rest_is_left_alone():
    start, handler = time.perf_counter(), signal.getsignal(signal.SIGALRM)
    with pytest.raises(ValueError, match="^too slow$"), time_limit(0.05, "too slow"):
        time.sleep(5)
    assert time.perf_counter() - start < 2
    with time_limit(0.05, "too slow"):
        pass
    time.sleep(0.1)  # the alarm is off
    assert signal.getsignal(signal.SIGALRM) is handler


def test_an_alarm_that_was_set_before_goes_on():
    rung = []
    before = signal.signal(signal.SIGALRM, lambda *_: rung.append(True))
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        with time_limit(5, "too slow"):
            pass
        time.sleep(0.3)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert rung == [True]


def test_another_thread_has_no_limit():
    done = []

    def work():
        with time_limit(0.01, "too slow"):
            time.sleep(0.05)
        done.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == [True]

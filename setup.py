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

"""The rooms of scripts/ as sub-packages of `deepssim`; everything else stands in pyproject.toml."""

from setuptools import find_packages, setup

setup(
    packages=[
        "deepssim",
        *(f"deepssim.{room}" for room in find_packages("scripts")),
        "deepssim.configs",
        "deepssim.models",
        "deepssim.demo",
    ]
)

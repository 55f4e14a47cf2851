# The audit on processors, as a user without rights and without a network:
#   docker build -t deepssim .
#   docker run --rm --network none --user "$(id -u):$(id -g)" -v "$PWD:/data" deepssim audit scans/train scans/samples --output_dir audit
FROM python:3.11-slim-bookworm

# of PyPI's torch for Linux, several GB are CUDA
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ENV NUMBA_CACHE_DIR=/var/cache/deepssim MPLCONFIGDIR=/tmp PYTHONUNBUFFERED=1
WORKDIR /opt/deepssim

COPY requirements.txt constraints.txt ./
RUN pip install --no-cache-dir --extra-index-url "$TORCH_INDEX" -c constraints.txt -r requirements.txt pydicom h5py SimpleITK

COPY . .
RUN pip install --no-cache-dir --no-deps .

# the demo compiles what is compiled at the first run, and must find its 16 copies
RUN deepssim audit demo/train demo/generated --output_dir /tmp/demo > /tmp/demo.txt \
    && grep "^Copies: 16. Likenesses: 0." /tmp/demo.txt \
    && rm -r /tmp/demo /tmp/demo.txt \
    && chmod -R a+rwX "$NUMBA_CACHE_DIR"

WORKDIR /data
USER 65534:65534
ENTRYPOINT ["deepssim"]
CMD ["--help"]

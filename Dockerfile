# The root file system of the managed plugin; plugin.json is its configuration.
# First stage: Python packages with their exact versions.  Second: what runs, and no compiler of its own
# (libbpfcc brings the one that compiles our programs).
FROM debian:bookworm-slim AS packages
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3 python3-venv \
    && rm -rf /var/lib/apt/lists/*
COPY requirements.txt /tmp/
RUN python3 -m venv --system-site-packages /opt/slim/.venv \
    && /opt/slim/.venv/bin/pip install --no-cache-dir --no-compile -r /tmp/requirements.txt

FROM debian:bookworm-slim
# python3-bpfcc is the binding of the BPF Compiler Collection; linux-libc-dev has the kernel API's headers.
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates linux-libc-dev python3 python3-bpfcc \
    && rm -rf /var/lib/apt/lists/* /usr/share/doc /usr/share/man /usr/share/locale \
    # Where the plugin's mounts go.
    && mkdir -p /run/docker/plugins /hostrun/var/run/docker /sys/fs/bpf /sys/fs/cgroup /var/lib/slim
COPY --from=packages /opt/slim/.venv /opt/slim/.venv
COPY driver /opt/slim/driver
COPY kernel /opt/slim/kernel
WORKDIR /opt/slim
ENTRYPOINT ["/opt/slim/.venv/bin/python", "-m", "driver", "serve"]

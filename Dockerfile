# The root file system of the managed plugin, where an engine can reach a registry; plugin.json is its
# configuration.  scripts/plugin.sh makes one from Debian's packages without a registry, which is
# smaller: it has the eBPF programs compiled.
# First stages: Python packages with their exact versions, the page's.  Last: what runs, and no compiler of its own
# (libbpfcc brings the one that compiles our programs).
FROM debian:bookworm-slim AS packages
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3 python3-pip \
    && rm -rf /var/lib/apt/lists/*
COPY requirements.txt /tmp/
RUN python3 -m pip install --no-cache-dir --break-system-packages --target /opt/slim/packages -r /tmp/requirements.txt

# What the page of `slim ui` takes from npm.
FROM debian:bookworm-slim AS page
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates npm \
    && rm -rf /var/lib/apt/lists/*
COPY packaging/page /slim/packaging/page
COPY scripts/page.sh /slim/scripts/
RUN /slim/scripts/page.sh

FROM debian:bookworm-slim
# python3-bpfcc is the binding of the BPF Compiler Collection; linux-libc-dev has the kernel API's headers.
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates linux-libc-dev python3 python3-bpfcc \
    && rm -rf /var/lib/apt/lists/* /usr/share/doc /usr/share/man /usr/share/locale \
    # Where the plugin's mounts go.
    && mkdir -p /run/docker/plugins /hostrun/var/run /sys/fs/bpf /sys/fs/cgroup /hoststate /tls
COPY --from=packages /opt/slim/packages /opt/slim/packages
COPY driver /opt/slim/driver
COPY --from=page /slim/driver/api/page/static/vendor /opt/slim/driver/api/page/static/vendor
COPY kernel /opt/slim/kernel
ENV PYTHONPATH=/opt/slim/packages
WORKDIR /opt/slim
ENTRYPOINT ["/usr/bin/python3", "-m", "driver", "serve"]

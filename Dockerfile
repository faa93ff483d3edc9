FROM python:3.14.8-slim-bookworm AS build
# "jwt,embedded" adds the embedded server.
ARG EXTRAS=jwt
WORKDIR /src
COPY pyproject.toml README.md LICENSE CHANGELOG.md ./
COPY man ./man
COPY rsws ./rsws
RUN python -m venv --without-pip /opt/rsws && \
    pip --python /opt/rsws/bin/python install --no-cache-dir ".[$EXTRAS]"

FROM python:3.14.8-slim-bookworm
# /data is for the embedded server: a volume takes its owner from there. With a Redis of its own nothing is written anywhere.
RUN groupadd --gid 10001 rsws && \
    useradd --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin --uid 10001 --gid 10001 rsws && \
    install --directory --owner=10001 --group=10001 --mode=0700 /data
COPY --from=build /opt/rsws /opt/rsws
# Others have to reach it: 127.0.0.1, the default elsewhere, is the container alone. Metrics and health are for that alone.
ENV PATH=/opt/rsws/bin:$PATH \
    HOST=0.0.0.0 \
    PORT=8080 \
    RSWS_ADMIN=127.0.0.1:9090 \
    RSWS_DATA_DIR=/data
# A release adds version, revision, source and time.
LABEL org.opencontainers.image.title="rsws" \
    org.opencontainers.image.description="A WebSocket gateway over Redis Streams" \
    org.opencontainers.image.licenses="MIT" \
    org.opencontainers.image.base.name="docker.io/library/python:3.14.8-slim-bookworm"
# A number: Kubernetes can't tell otherwise that it is not root.
USER 10001:10001
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=5s --start-period=10s \
    CMD ["python", "-c", "import http.client as h, os; c = h.HTTPConnection('localhost', int(os.environ['RSWS_ADMIN'].rpartition(':')[2]), timeout=4); c.request('GET', '/healthz'); raise SystemExit(c.getresponse().status != 200)"]
CMD ["rsws", "serve"]

FROM python:3.12.12-slim-bookworm AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY rsws ./rsws
RUN python -m venv --without-pip /opt/rsws && \
    pip --python /opt/rsws/bin/python install --no-cache-dir '.[jwt]'

FROM python:3.12.12-slim-bookworm
RUN useradd --create-home --uid 10001 rsws
COPY --from=build /opt/rsws /opt/rsws
# Others have to reach it: 127.0.0.1, the default elsewhere, is the container alone.
ENV PATH=/opt/rsws/bin:$PATH \
    HOST=0.0.0.0 \
    PORT=8080
USER rsws
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=5s --start-period=10s \
    CMD ["python", "-c", "import http.client as h, os, ssl; at = '127.0.0.1', int(os.environ['PORT'] or 8080); tls = os.environ.get('RSWS_TLS_CERT'); c = h.HTTPSConnection(*at, timeout=4, context=ssl._create_unverified_context()) if tls else h.HTTPConnection(*at, timeout=4); c.request('GET', '/healthz'); raise SystemExit(c.getresponse().status != 200)"]
CMD ["rsws", "serve"]

# A server for one index: docker build -t hier . && docker run -p 8000:8000 -v ./data:/data:ro hier
# The wheel is built in a stage of its own; what runs has no compiler, no PyTorch and no root.
FROM python:3.12-slim AS wheel
WORKDIR /source
RUN pip install --no-cache-dir build
COPY pyproject.toml README.md LICENSE ./
COPY hiercli hiercli
COPY models models
RUN python -m build --wheel --outdir /wheel

FROM python:3.12-slim
RUN useradd --system --create-home --uid 10001 hier
COPY --from=wheel /wheel /wheel
RUN pip install --no-cache-dir "$(ls /wheel/*.whl)[serve,formats,text,milvus]" && rm -r /wheel
USER hier
VOLUME /data
EXPOSE 8000
ENV HIER_INDEX=/data/idx.faiss PYTHONUNBUFFERED=1
# The token comes from HIER_TOKEN; without one a new one is made and printed.
HEALTHCHECK --interval=10s --start-period=30s --timeout=3s CMD ["python", "-c", \
  "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/api/healthz', timeout=2)"]
CMD ["sh", "-c", "exec hier serve --index \"$HIER_INDEX\" --host 0.0.0.0 --port 8000"]

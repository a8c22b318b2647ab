"""HTTP serving: an application around predictors, its queue and batches, and the page people can try.

    settings.py        what can be set
    admission.py       how many requests may be in the house, and who is turned away
    batching.py        the queue whose images of one network size are computed together
    models.py          the models that are served: loading, warming up, replacing
    body.py            request bodies: limits on size and time, compression, multipart
    segmenting.py      one request's way: decode, queue, encode
    v1.py              /v1: our own endpoints
    open_inference.py  /v2: the Open Inference Protocol
    metrics.py         /metrics for Prometheus
    tracing.py         spans for OpenTelemetry
    app.py             the application: the above, request ids, keys, errors
    ray_serve.py       the application on Ray Serve
    server.py          `serve`: the application on a socket, signals, the end
    demo/              the page: HTML, script and style, served as they are

A request is admitted or refused at once, before its body is read. FastAPI, uvicorn, python-multipart and
prometheus-client are the extra ``serve``.
"""

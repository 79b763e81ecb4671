"""The same small site in four frameworks, for the tests that serve real applications.

Every site has::

    GET  /hello?name=...     "Hello <name>!" as text, in UTF-8
    POST /form               "<field>=<value>" lines of a form, sorted
    POST /upload             the length and the SHA-256 of the body
    GET  /path/<segment>     the segment, decoded, as UTF-8
    GET  /stream             STREAM, in pieces, without a Content-Length
    GET  /cookies            sets the cookies a=1 and b=2

and answers 404 to everything else.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterator
from typing import Any

STREAM = [f"piece {number}\n".encode() for number in range(20)]


def lines(form: dict[str, str]) -> str:
    return "".join(f"{name}={value}\n" for name, value in sorted(form.items()))


def digest(body: bytes) -> str:
    return f"{len(body)} {hashlib.sha256(body).hexdigest()}"


def stream() -> Iterator[bytes]:
    yield from STREAM


@functools.cache
def flask_app() -> Any:
    import flask

    app = flask.Flask("site")

    @app.get("/hello")
    def hello() -> Any:
        return flask.Response(f"Hello {flask.request.args['name']}!", mimetype="text/plain")

    @app.post("/form")
    def form() -> Any:
        return flask.Response(lines(flask.request.form.to_dict()), mimetype="text/plain")

    @app.post("/upload")
    def upload() -> Any:
        return flask.Response(digest(flask.request.get_data()), mimetype="text/plain")

    @app.get("/path/<segment>")
    def path(segment: str) -> Any:
        return flask.Response(segment, mimetype="text/plain")

    @app.get("/stream")
    def streamed() -> Any:
        return flask.Response(stream(), mimetype="text/plain")

    @app.get("/cookies")
    def cookies() -> Any:
        response = flask.Response("set", mimetype="text/plain")
        response.set_cookie("a", "1")
        response.set_cookie("b", "2")
        return response

    return app


@functools.cache
def django_app() -> Any:
    import django
    from django.conf import settings
    from django.core.wsgi import get_wsgi_application
    from django.http import HttpResponse, StreamingHttpResponse
    from django.urls import path as url

    text = "text/plain; charset=utf-8"

    def hello(request: Any) -> Any:
        return HttpResponse(f"Hello {request.GET['name']}!", content_type=text)

    def form(request: Any) -> Any:
        return HttpResponse(lines(request.POST.dict()), content_type=text)

    def upload(request: Any) -> Any:
        return HttpResponse(digest(request.body), content_type=text)

    def path(request: Any, segment: str) -> Any:
        return HttpResponse(segment, content_type=text)

    def streamed(request: Any) -> Any:
        return StreamingHttpResponse(stream(), content_type=text)

    def cookies(request: Any) -> Any:
        response = HttpResponse("set", content_type=text)
        response.set_cookie("a", "1")
        response.set_cookie("b", "2")
        return response

    class Urls:
        urlpatterns = (
            url("hello", hello),
            url("form", form),
            url("upload", upload),
            url("path/<str:segment>", path),
            url("stream", streamed),
            url("cookies", cookies),
        )

    settings.configure(
        ALLOWED_HOSTS=["*"], LOGGING_CONFIG=None, ROOT_URLCONF=Urls, SECRET_KEY="for tests", USE_TZ=True
    )
    django.setup()
    return get_wsgi_application()


@functools.cache
def bottle_app() -> Any:
    import bottle

    app = bottle.Bottle()
    request, response = bottle.request, bottle.response

    @app.get("/hello")
    def hello() -> str:
        response.content_type = "text/plain; charset=utf-8"
        return f"Hello {request.query.getunicode('name')}!"

    @app.post("/form")
    def form() -> str:
        response.content_type = "text/plain; charset=utf-8"
        return lines({name: request.forms.getunicode(name) for name in request.forms})

    @app.post("/upload")
    def upload() -> str:
        return digest(request.body.read())

    @app.get("/path/<segment>")
    def path(segment: str) -> str:
        response.content_type = "text/plain; charset=utf-8"
        return segment

    @app.get("/stream")
    def streamed() -> Iterator[bytes]:
        response.content_type = "text/plain"
        return stream()

    @app.get("/cookies")
    def cookies() -> str:
        response.set_cookie("a", "1")
        response.set_cookie("b", "2")
        return "set"

    return app


@functools.cache
def falcon_app() -> Any:
    import falcon

    class Hello:
        def on_get(self, req: Any, resp: Any) -> None:
            resp.content_type = falcon.MEDIA_TEXT
            resp.text = f"Hello {req.get_param('name')}!"

    class Form:
        def on_post(self, req: Any, resp: Any) -> None:
            resp.content_type = falcon.MEDIA_TEXT
            resp.text = lines(req.get_media())

    class Upload:
        def on_post(self, req: Any, resp: Any) -> None:
            resp.content_type = falcon.MEDIA_TEXT
            resp.text = digest(req.bounded_stream.read())

    class Path:
        def on_get(self, req: Any, resp: Any, segment: str) -> None:
            resp.content_type = falcon.MEDIA_TEXT
            resp.text = segment

    class Streamed:
        def on_get(self, req: Any, resp: Any) -> None:
            resp.content_type = falcon.MEDIA_TEXT
            resp.stream = stream()

    class Cookies:
        def on_get(self, req: Any, resp: Any) -> None:
            resp.set_cookie("a", "1", secure=False)
            resp.set_cookie("b", "2", secure=False)
            resp.text = "set"

    app = falcon.App()
    app.add_route("/hello", Hello())
    app.add_route("/form", Form())
    app.add_route("/upload", Upload())
    app.add_route("/path/{segment}", Path())
    app.add_route("/stream", Streamed())
    app.add_route("/cookies", Cookies())
    return app


SITES: dict[str, Callable[[], Any]] = {
    "flask": flask_app,
    "django": django_app,
    "bottle": bottle_app,
    "falcon": falcon_app,
}

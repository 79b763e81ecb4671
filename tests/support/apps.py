"""The same small site in four frameworks, for tests that serve real applications.

Every site has::

    GET  /hello?name=...     "Hello <name>!" as text, in UTF-8
    POST /form               "<field>=<value>" lines of a form, sorted
    POST /upload             the length and the SHA-256 of the body
    GET  /path/<segment>     the segment, decoded, as UTF-8
    GET  /stream             STREAM, in pieces, without a Content-Length
    GET  /cookies            sets the cookies a=1 and b=2

and answers 404 to all other requests. The sites of Flask, Django and Falcon also have, by means of the framework::

    POST /multipart          "<field>=<value>" lines of a multipart form, sorted; a file is "<its name> <digest()>"
    GET  /files/<name>       a file of FOLDER, with the framework's support of conditions and ranges
    GET  /redirect           to /hello?name=you, as an absolute URL with the request's scheme and host
    GET  /session            how many requests the session has had; a cookie identifies it
    GET  /raise              raises RuntimeError
    GET  /broken             raises RuntimeError after some pieces of a body
    GET  /context?name=...   the pieces of Context

and they answer HEAD for /hello, /stream and /files.
"""

from __future__ import annotations

import contextvars
import datetime
import functools
import hashlib
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

STREAM = [f"piece {number}\n".encode() for number in range(20)]
#: How many requests for /context?together=yes wait for each other.
PARTIES = 4
FOLDER = os.environ.get("SITE_FOLDER", str(Path(__file__).parent))

_together = threading.Barrier(PARTIES)
_of_thread = threading.local()
_of_context = contextvars.ContextVar("_of_context", default="nobody")


def lines(form: dict[str, str]) -> str:
    return "".join(f"{name}={value}\n" for name, value in sorted(form.items()))


def digest(body: bytes) -> str:
    return f"{len(body)} {hashlib.sha256(body).hexdigest()}"


def stream() -> Iterator[bytes]:
    yield from STREAM


def broken() -> Iterator[bytes]:
    yield from STREAM
    raise RuntimeError("broken on purpose")


class Context:
    """Stores a request's name in thread locals and context variables, and reads it back later.

    query: ``name``: four digits, below 0060; ``together``: wait for other requests before reading; ``pieces``,
    ``size``: how often to read, and how many octets the answer has each time.
    """

    def __init__(self, query: Mapping[str, str]) -> None:
        self.name = query["name"]
        self.pieces, self.size = int(query.get("pieces", "1")), int(query.get("size", "1"))
        _of_thread.name = self.name
        _of_context.set(self.name)
        if "together" in query:
            _together.wait(10)

    def found(self, frameworks_own: Callable[[], str]) -> Iterator[bytes]:
        """Lines with the names that are found: in the thread, in the context, and in the framework."""
        for _ in range(self.pieces):
            found = f"{_of_thread.name} {_of_context.get()} {frameworks_own()}"
            yield found.ljust(self.size - 1).encode() + b"\n"


@functools.cache
def flask_app() -> Any:
    import flask

    app = flask.Flask("site")
    app.secret_key = "for tests"

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

    @app.post("/multipart")
    def multipart() -> Any:
        files = {name: f"{file.filename} {digest(file.read())}" for name, file in flask.request.files.items()}
        return flask.Response(lines({**flask.request.form.to_dict(), **files}), mimetype="text/plain")

    @app.get("/files/<name>")
    def files(name: str) -> Any:
        return flask.send_from_directory(FOLDER, name)

    @app.get("/redirect")
    def redirect() -> Any:
        return flask.redirect(flask.url_for("hello", name="you", _external=True))

    @app.get("/session")
    def session() -> Any:
        flask.session["visits"] = flask.session.get("visits", 0) + 1
        return flask.Response(str(flask.session["visits"]), mimetype="text/plain")

    @app.get("/raise")
    def raising() -> Any:
        raise RuntimeError("raised on purpose")

    @app.get("/broken")
    def breaking() -> Any:
        return flask.Response(broken(), mimetype="text/plain")

    @app.get("/context")
    def context() -> Any:
        flask.g.name = flask.request.args["name"]
        found = Context(flask.request.args).found(lambda: f"{flask.g.name} {flask.request.args['name']}")
        return flask.Response(flask.stream_with_context(found), mimetype="text/plain")

    return app


@functools.cache
def django_app() -> Any:
    import django
    from django.conf import settings
    from django.core.wsgi import get_wsgi_application
    from django.http import FileResponse, HttpResponse, HttpResponseRedirect, StreamingHttpResponse
    from django.urls import path as url
    from django.utils import timezone
    from django.views.decorators.http import last_modified

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

    def multipart(request: Any) -> Any:
        files = {name: f"{file.name} {digest(file.read())}" for name, file in request.FILES.items()}
        return HttpResponse(lines({**request.POST.dict(), **files}), content_type=text)

    def modified(request: Any, name: str) -> datetime.datetime:
        return datetime.datetime.fromtimestamp(int(Path(FOLDER, name).stat().st_mtime), datetime.timezone.utc)

    @last_modified(modified)
    def files(request: Any, name: str) -> Any:
        return FileResponse(Path(FOLDER, name).open("rb"))

    def redirect(request: Any) -> Any:
        return HttpResponseRedirect(request.build_absolute_uri("/hello?name=you"))

    def session(request: Any) -> Any:
        request.session["visits"] = request.session.get("visits", 0) + 1
        return HttpResponse(str(request.session["visits"]), content_type=text)

    def raising(request: Any) -> Any:
        raise RuntimeError("raised on purpose")

    def breaking(request: Any) -> Any:
        return StreamingHttpResponse(broken(), content_type=text)

    def context(request: Any) -> Any:
        # Django keeps the time zone for a request. The zone +0007 stands for the name 0007.
        timezone.activate(timezone.get_fixed_timezone(int(request.GET["name"])))
        found = Context(request.GET).found(lambda: timezone.get_current_timezone_name().removeprefix("+"))
        return StreamingHttpResponse(found, content_type=text)

    class Urls:
        urlpatterns = (
            url("hello", hello),
            url("form", form),
            url("upload", upload),
            url("path/<str:segment>", path),
            url("stream", streamed),
            url("cookies", cookies),
            url("multipart", multipart),
            url("files/<str:name>", files),
            url("redirect", redirect),
            url("session", session),
            url("raise", raising),
            url("broken", breaking),
            url("context", context),
        )

    settings.configure(
        ALLOWED_HOSTS=["*"],
        LOGGING_CONFIG=None,
        MIDDLEWARE=["django.contrib.sessions.middleware.SessionMiddleware"],
        ROOT_URLCONF=Urls,
        SECRET_KEY="for tests",
        SESSION_ENGINE="django.contrib.sessions.backends.signed_cookies",
        USE_TZ=True,
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

        on_head = on_get

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

        on_head = on_get

    class Cookies:
        def on_get(self, req: Any, resp: Any) -> None:
            resp.set_cookie("a", "1", secure=False)
            resp.set_cookie("b", "2", secure=False)
            resp.text = "set"

    class Multipart:
        def on_post(self, req: Any, resp: Any) -> None:
            resp.content_type = falcon.MEDIA_TEXT
            form = {}
            for part in req.get_media():
                form[part.name] = f"{part.filename} {digest(part.stream.read())}" if part.filename else part.text
            resp.text = lines(form)

    class Redirect:
        def on_get(self, req: Any, resp: Any) -> None:
            raise falcon.HTTPFound(f"{req.prefix}/hello?name=you")

    class Session:
        def on_get(self, req: Any, resp: Any) -> None:
            resp.text = str(int(req.cookies.get("visits", "0")) + 1)
            resp.set_cookie("visits", resp.text, secure=False)

    class Raising:
        def on_get(self, req: Any, resp: Any) -> None:
            raise RuntimeError("raised on purpose")

    class Breaking:
        def on_get(self, req: Any, resp: Any) -> None:
            resp.stream = broken()

    class InContext:
        def on_get(self, req: Any, resp: Any) -> None:
            resp.content_type = falcon.MEDIA_TEXT
            req.context.name = req.get_param("name")
            resp.stream = Context(req.params).found(lambda: str(req.context.name))

    app = falcon.App()
    app.add_route("/hello", Hello())
    app.add_route("/form", Form())
    app.add_route("/upload", Upload())
    app.add_route("/path/{segment}", Path())
    app.add_route("/stream", Streamed())
    app.add_route("/cookies", Cookies())
    app.add_route("/multipart", Multipart())
    app.add_route("/redirect", Redirect())
    app.add_route("/session", Session())
    app.add_route("/raise", Raising())
    app.add_route("/broken", Breaking())
    app.add_route("/context", InContext())
    app.add_static_route("/files", FOLDER)
    return app


SITES: dict[str, Callable[[], Any]] = {
    "flask": flask_app,
    "django": django_app,
    "bottle": bottle_app,
    "falcon": falcon_app,
}

"""A hub on this machine: serves folders through the hub's HTTP interface and counts what is fetched."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """Repositories are folders; every file is large ("lfs") that is safetensors, as on the hub.

    ``data_sets`` are folders too. ``listed`` names weight files, with their sizes,
    that a repository has on the hub but that this stub cannot give.
    """

    def __init__(
        self,
        repositories: dict[str, Path],
        refuse_weights: bool = False,
        data_sets: dict[str, Path] | None = None,
        listed: dict[str, dict[str, int]] | None = None,
    ):
        self.repositories, self.refuse_weights = repositories, refuse_weights
        self.data_sets, self.listed = data_sets or {}, listed or {}
        self.fetched: list[str] = []  # names of the files whose content was asked for
        self.sent: Counter[str] = Counter()  # bytes of content by path
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def do_HEAD(self):
                hub.answer(self, with_body=False)

            def do_GET(self):
                hub.answer(self, with_body=True)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self) -> Hub:
        self.thread = threading.Thread(target=self.server.serve_forever)
        self.thread.start()
        return self

    def __exit__(self, *_) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()

    def answer(self, request: BaseHTTPRequestHandler, with_body: bool) -> None:
        parts = urlsplit(request.path)
        path = unquote(parts.path)
        for name, folder in self.repositories.items():
            if re.fullmatch(rf"/api/models/{name}(/revision/[^/]+)?", path):
                return self.send_json(request, self.info(name, folder, "blobs" in parts.query))
            if re.fullmatch(rf"/api/models/{name}/tree/[^/]+", path):
                return self.send_json(request, self.tree(folder))
            found = re.fullmatch(rf"/{name}/resolve/[^/]+/(.+)", path)
            if found and (folder / found[1]).is_file():
                return self.send_file(request, folder / found[1], with_body)
        for name, folder in self.data_sets.items():
            if re.fullmatch(rf"/api/datasets/{name}(/revision/[^/]+)?", path):
                return self.send_json(request, self.info(name, folder, blobs=False))
            if re.fullmatch(rf"/api/datasets/{name}/tree/[^/]+", path):
                return self.send_json(request, self.tree(folder))
            if re.fullmatch(rf"/api/datasets/{name}/tree/[^/]+/.+", path):  # it has no folders
                return self.send(request, 404, b"", {"X-Error-Code": "EntryNotFound"})
            found = re.fullmatch(rf"/datasets/{name}/resolve/[^/]+/(.+)", path)
            if found and (folder / found[1]).is_file():
                return self.send_file(request, folder / found[1], with_body)
        if with_body and path.endswith(".safetensors"):
            self.fetched.append(path)
        missing = "RepoNotFound" if path.startswith("/api/") else "EntryNotFound"
        self.send(request, 404, b"", {"X-Error-Code": missing})

    def info(self, name: str, folder: Path, blobs: bool) -> dict:
        siblings = []
        for path in sorted(folder.iterdir()):
            entry: dict = {"rfilename": path.name}
            if blobs:
                entry |= {"size": path.stat().st_size, "blobId": git_id(path)}
                if path.suffix == ".safetensors":
                    entry["lfs"] = {
                        "sha256": sha256(path),
                        "size": path.stat().st_size,
                        "pointerSize": 130,
                    }
            siblings.append(entry)
        for file, size in self.listed.get(name, {}).items():
            digest = hashlib.sha256(file.encode()).hexdigest()
            lfs = {"sha256": digest, "size": size, "pointerSize": 130}
            more = {"size": size, "blobId": digest[:40], "lfs": lfs} if blobs else {}
            siblings.append({"rfilename": file, **more})
        return {"id": name, "modelId": name, "sha": COMMIT, "siblings": siblings}

    def tree(self, folder: Path) -> list[dict]:
        entries = []
        for path in sorted(folder.iterdir()):
            size = path.stat().st_size
            entry = {"type": "file", "path": path.name, "size": size, "oid": git_id(path)}
            if path.suffix == ".safetensors":
                entry["lfs"] = {"oid": sha256(path), "size": size, "pointerSize": 130}
            entries.append(entry)
        return entries

    def send_file(self, request: BaseHTTPRequestHandler, path: Path, with_body: bool) -> None:
        large = path.suffix == ".safetensors"
        if with_body:
            self.fetched.append(path.name)
            if large and self.refuse_weights:
                return self.send(request, 403, b"")
        headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{git_id(path)}"'}
        if large:
            headers["X-Linked-Etag"] = f'"{sha256(path)}"'
            headers["X-Linked-Size"] = str(path.stat().st_size)
        body, status = path.read_bytes(), 200
        if asked := re.fullmatch(r"bytes=(\d*)-(\d*)", request.headers.get("Range", "")):
            first, last = asked.groups()
            body = body[int(first) : int(last) + 1] if first else body[-int(last) :]
            status = 206
        if with_body:
            self.sent[str(path)] += len(body)
        self.send(request, status, body, headers, with_body)

    def send_json(self, request: BaseHTTPRequestHandler, content: object) -> None:
        body = json.dumps(content).encode()
        self.send(request, 200, body, {"Content-Type": "application/json"})

    def send(self, request, status: int, body: bytes, headers=None, with_body: bool = True) -> None:
        request.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
            request.send_header(name, value)
        request.end_headers()
        if with_body:
            request.wfile.write(body)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def git_id(path: Path) -> str:
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()

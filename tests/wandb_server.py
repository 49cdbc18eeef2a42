"""Servers on this machine for W&B to talk to: one that works, and ways for it not to.

The working one knows what wandb 0.31 asks for on behalf of one project: enough for runs to be made, resumed and filled.
"""

import gzip
import json
import socket
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class WandbServer(ThreadingHTTPServer):
    """Keeps the points of each run's series in `history`. With `dies`, the first point or statistic is its end."""

    daemon_threads = True

    def __init__(self, dies: bool = False) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.dies = dies
        self.history: dict[str, list[dict[str, Any]]] = defaultdict(list)
        self.resumed: list[str] = []
        self.url = f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A connection that breaks is no news here."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: WandbServer

    def log_message(self, *_: Any) -> None:
        """Keep quiet."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        if self.path.endswith("/file_stream"):
            if self.server.dies:
                threading.Thread(target=self.server.shutdown).start()
                self.server.socket.close()
                self.close_connection = True
                return
            self._keep_history(self.path.split("/")[-2], json.loads(body))
        self._answer(self._graphql(json.loads(body)) if self.path == "/graphql" else {})

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self._answer({})

    def _answer(self, content: dict[str, Any]) -> None:
        data = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _keep_history(self, run_id: str, body: dict[str, Any]) -> None:
        lines = body.get("files", {}).get("wandb-history.jsonl", {"offset": 0, "content": []})
        points = self.server.history[run_id]
        points[lines["offset"] :] = [json.loads(line) for line in lines["content"]] or points[lines["offset"] :]

    def _graphql(self, request: dict[str, Any]) -> dict[str, Any]:
        query, variables = request["query"], request.get("variables") or {}
        if "upsertBucket" in query:
            project = {"name": "rollout", "entity": {"name": "us"}}
            bucket = {"id": "1", "name": variables["name"], "displayName": "run", "config": "{}", "project": project}
            return {"data": {"upsertBucket": {"inserted": True, "bucket": bucket | {"historyLineCount": 0}}}}
        if "RunResumeStatus" in query:
            entity = {"id": "2", "name": "us"}
            bucket_before = self._resume_status(variables["name"])
            return {"data": {"model": {"id": "3", "name": "rollout", "entity": entity, "bucket": bucket_before}}}
        if "createRunFiles" in query:
            files = [{"name": name, "uploadUrl": f"{self.server.url}/file"} for name in variables["files"]]
            return {"data": {"createRunFiles": {"runID": "1", "uploadHeaders": [], "files": files}}}
        if "viewer" in query:
            return {"data": {"viewer": {"id": "4", "username": "we", "entity": "us", "flags": "{}"}}}
        return {"data": {}}

    def _resume_status(self, run_id: str) -> dict[str, Any] | None:
        points = self.server.history.get(run_id)
        if not points:
            return None
        self.server.resumed.append(run_id)
        counts = {"logLineCount": 0, "eventsLineCount": 0, "historyLineCount": len(points)}
        tails = {"historyTail": json.dumps([json.dumps(points[-1])]), "eventsTail": "[]"}
        texts = {"displayName": "run", "summaryMetrics": "{}", "config": "{}", "wandbConfig": '{"t": 1}', "tags": []}
        return {"id": "1", "name": run_id, **counts, **tails, **texts}


@contextmanager
def wandb_server(dies: bool = False) -> Iterator[WandbServer]:
    """A W&B server that works, until its death if it `dies`."""
    with WandbServer(dies) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield server
        server.shutdown()


@contextmanager
def silent_server() -> Iterator[str]:
    """The address of a server that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        held: list[socket.socket] = []

        def accept() -> None:
            while True:
                try:
                    held.append(server.accept()[0])
                except OSError:
                    return

        threading.Thread(target=accept, daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        for connection in held:
            connection.close()


def refusing_server() -> str:
    """The address of a server that is not there."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"http://127.0.0.1:{server.getsockname()[1]}"

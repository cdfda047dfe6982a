"""A stand-in for vLLM's server, `stand_in_server.py HOST PORT MODE`; its engine sleeps and heeds no SIGTERM."""

import http.server
import json
import os
import subprocess
import sys
import time

HOST, PORT, MODE = sys.argv[1], int(sys.argv[2]), sys.argv[3]


class Server(http.server.ThreadingHTTPServer):
    allow_reuse_port = True


class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        known = self.headers["Authorization"] == f"Bearer {os.environ['VLLM_API_KEY']}"
        status = 401 if not known else 400 if MODE == "refuse" else 200
        data = json.dumps({"choices": [{"message": {"content": "hello"}}], "pid": os.getpid()}).encode()
        if status == 400:
            data = f"no chat template, said to {self.headers['Authorization']}".encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *arguments):
        pass


ENGINE = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(1000)"
engine = subprocess.Popen([sys.executable, "-c", ENGINE], stdout=subprocess.PIPE)
engine.stdout.readline()
print(f"pids {os.getpid()} {engine.pid}", flush=True)
if MODE == "die":
    sys.exit("no such checkpoint")
if MODE == "hang":
    time.sleep(1000)
Server((HOST, PORT), Handler).serve_forever()

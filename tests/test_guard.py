"""The guard of the tests holds: in this process, in those it starts, and in a notebook's kernel."""

import socket
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from pages.record import ROOT

FAR = "('192.0.2.1', 80)"  # an address that belongs to nobody (RFC 5737)


def test_this_process_reaches_no_other_machine() -> None:
    with pytest.raises(RuntimeError, match="reach no other machine"):
        socket.create_connection(("192.0.2.1", 80), timeout=1)
    with pytest.raises(RuntimeError, match="asked for example.org"):
        socket.getaddrinfo("example.org", 80)
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()):
        pass


def test_neither_do_those_it_starts() -> None:
    code = f"import socket; socket.create_connection({FAR}, timeout=1)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert said.returncode and "RuntimeError: the tests reach no other machine" in said.stderr


def test_a_notebook_neither_reaches_out_nor_writes_into_the_checkout(tmp_path: Path) -> None:
    inside = f"open({str(ROOT / 'written')!r}, 'w')"
    cells = {
        f"import socket; socket.create_connection({FAR}, timeout=1)": "reach no other machine",
        inside: "must not write into the checkout",
        f"import os; os.mkdir({str(ROOT / 'made')!r})": "must not write into the checkout",
        f"open({str(tmp_path / 'link' / 'written')!r}, 'w')": "must not write into the checkout",
        f"os.rename({str(ROOT / 'not there')!r}, {str(tmp_path / 'away')!r})": "must not write into the checkout",
        f"import subprocess, sys; code = {inside!r}\n"
        "said = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)\n"
        "raise OSError(said.stderr)": "must not write into the checkout",
        f"open({str(tmp_path / 'elsewhere')!r}, 'w').close()": "",
    }
    (tmp_path / "link").symlink_to(ROOT)
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code) for code in cells])
    NotebookClient(notebook, allow_errors=True, kernel_name="python3").execute()
    for cell, message in zip(notebook.cells, cells.values(), strict=True):
        errors = [output.evalue for output in cell.outputs if output.output_type == "error"]
        assert message in errors[0] if message else not errors, errors
    assert not (ROOT / "written").exists() and (tmp_path / "elsewhere").exists()

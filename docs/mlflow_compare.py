"""Pictures of MLflow's pages for a study's store: the rows of the tables, and two of them compared with their learning curves.

``python docs/mlflow_compare.py --scale small`` starts ``mlflow server`` on ``results/mlflow.db``, opens its pages in Chromium and writes
``docs/mlflow-compare.png``. It needs the extra ``dev`` and a Chromium (Debian: ``apt-get install chromium``).
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import typer
from playwright.sync_api import Page, sync_playwright

PATIENCE = 120
"""Seconds until the server must answer, and a page must be drawn."""

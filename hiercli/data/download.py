"""Fetch a benchmark from its own published address: terms, transfer, checksum, extraction.

A file lands in ``root/.downloads`` as ``<name>.part`` and goes on from there after an
interruption. Only bytes that match the checksum are unpacked, into a hidden folder first, and
one rename puts the finished data set in place: it is there whole or not at all. Sizes are in
bytes and times in seconds throughout. Run one download of a data set at a time.
"""

import hashlib
import http.client
import os
import re
import shutil
import ssl
import stat
import tarfile
import tempfile
import time
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from lzma import LZMAError
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from hiercli.data.sources import SOURCES, Archive, Source

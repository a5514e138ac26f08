"""What processes ask of the network, seen at the C level: Python's hooks see nothing of libraries.

A library that is preloaded writes each look-up and each internet socket into a file, and refuses
it, so that nothing leaves the machine.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

_SHIM = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

static void note(const char *call, const char *name) {
    int file = open(getenv("NETWORK_LOG"), O_WRONLY | O_APPEND | O_CREAT, 0600);
    char line[300];
    int size = snprintf(line, sizeof line, "%s %.250s\n", call, name ? name : "");
    if (file < 0 || write(file, line, size) != size) abort();
    close(file);
}
static int is_internet(const struct sockaddr *address) {
    return address && (address->sa_family == AF_INET || address->sa_family == AF_INET6);
}
int getaddrinfo(const char *name, const char *service, const struct addrinfo *hints,
                struct addrinfo **found) {
    note("getaddrinfo", name);
    return EAI_FAIL;
}
struct hostent *gethostbyname(const char *name) { note("gethostbyname", name); return NULL; }
struct hostent *gethostbyname2(const char *name, int family) {
    note("gethostbyname2", name);
    return NULL;
}
int gethostbyname_r(const char *name, struct hostent *into, char *buffer, size_t size,
                    struct hostent **found, int *error) {
    note("gethostbyname_r", name);
    *found = NULL;
    *error = NO_RECOVERY;
    return EAI_FAIL;
}
int res_query(const char *name, int kind, int type, unsigned char *answer, int size) {
    note("res_query", name);
    return -1;
}
int socket(int family, int type, int protocol) {
    if (family == AF_INET || family == AF_INET6) {
        note("socket", family == AF_INET ? "inet" : "inet6");
        errno = EACCES;
        return -1;
    }
    return ((int (*)(int, int, int))dlsym(RTLD_NEXT, "socket"))(family, type, protocol);
}
int connect(int file, const struct sockaddr *address, socklen_t size) {
    if (is_internet(address)) {
        note("connect", "");
        errno = EACCES;
        return -1;
    }
    return ((int (*)(int, const struct sockaddr *, socklen_t))dlsym(RTLD_NEXT, "connect"))(
        file, address, size);
}
"""


class NetworkWatch:
    """The preloaded library, and what it wrote.

    Args:
        folder: for the library and its log.
    """

    def __init__(self, folder: Path) -> None:
        compiler = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
        if compiler is None:
            pytest.skip("no C compiler here, with which the network is watched")
        self._library, self._log = folder / "watch.so", folder / "network.log"
        source = folder / "watch.c"
        source.write_text(_SHIM)
        library = os.fspath(self._library)
        command = [compiler, "-shared", "-fPIC", "-o", library, os.fspath(source), "-ldl"]
        subprocess.run(command, check=True)

    @property
    def environment(self) -> dict[str, str]:
        """What a watched process needs; its children are watched too."""
        return {"LD_PRELOAD": os.fspath(self._library), "NETWORK_LOG": os.fspath(self._log)}

    @property
    def seen(self) -> list[str]:
        """The calls so far, each with the name that was looked up."""
        return self._log.read_text().splitlines() if self._log.exists() else []

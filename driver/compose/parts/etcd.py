"""Reads from the settings how etcd is reached, for the driver and for each command."""

from __future__ import annotations

from functools import partial

from driver.settings import Settings
from driver.state import host
from driver.store.etcd.connection import EtcdSettings


def etcd_settings(settings: Settings) -> EtcdSettings:
    """Return it.  Error: SettingsError (the password's file)."""
    password_file = settings.etcd_password_file
    return EtcdSettings(
        settings.etcd, ca=settings.etcd_ca, cert=settings.etcd_cert, key=settings.etcd_key,
        user=settings.etcd_user,
        # Read now to report errors at the start, and again at each login.
        password=partial(host.read_password, password_file) if host.read_password(password_file)
        else "",
        endpoints_file=settings.etcd_endpoints_file)

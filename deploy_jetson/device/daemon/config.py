"""Reads and checks the configuration file (INI); errors name section, key and line."""

import configparser
import io
import ipaddress
import math
import os
import re
from typing import Any, Callable, Dict, NamedTuple

from deploy_jetson.device.daemon.preflight import check_everything, check_folders
from deploy_jetson.device.daemon.settings import DaemonSettings, Names, ResultDestination
from pneumonia.runtime.engines import ENGINES
from pneumonia.runtime.errors import ConfigError
from pneumonia.runtime.image.dicom_header import BODY_PARTS, MODALITIES
from pneumonia.runtime.image.views import VIEWS

KINDS = ("sr", "gsps", "sc")
DESTINATION = "destination "
MAX_CONFIG_BYTES = 1 << 20
PATHS = ("bundle", "state", "folder", "token_file", "tls_cert", "tls_key", "tls_ca")
_NAME = re.compile(r"^[A-Za-z0-9_-]{1,32}$")
_AET = re.compile(r"^[A-Za-z0-9_. -]{1,16}$")


class DaemonConfigError(ConfigError):
    """The configuration file is wrong; 78 is sysexits' EX_CONFIG: systemd does not start again."""

    exit_code = 78

    @classmethod
    def of(cls, error: ConfigError) -> "DaemonConfigError":
        """The same error with the exit code of a wrong configuration."""
        return cls(error.what, error.expected, error.found, error.where, error.fix)


class _Bound(NamedTuple):
    low: float
    high: float


# allowed range of every numeric key
BOUNDS = {
    "threads": _Bound(0, 64),
    "max_images": _Bound(1, 100000),
    "max_mb": _Bound(1, 1e6),
    "max_image_mb": _Bound(0.001, 2048),
    "max_attempts": _Bound(1, 1000),
    "reserve_mb": _Bound(0, 1e6),
    "max_used_percent": _Bound(1, 100),
    "keep_days": _Bound(0.001, 36500),
    "memory_mb": _Bound(256, 65536),
    "seconds": _Bound(0.1, 600),
    "max_side": _Bound(16, 65535),
    "max_pixels": _Bound(256, 1 << 30),
    "port": _Bound(-1, 65535),
    "max_connections": _Bound(1, 256),
    "request_s": _Bound(0.1, 600),
    "max_associations": _Bound(1, 64),
    "timeout_s": _Bound(0.1, 600),
    "commit_s": _Bound(0, 3600),
    "scan_s": _Bound(0.05, 3600),
    "quiet_s": _Bound(0, 3600),
    "max_depth": _Bound(0, 16),
    "first_s": _Bound(0.01, 3600),
    "longest_s": _Bound(0.01, 86400),
    "poll_s": _Bound(0.05, 60),
    "pause_below_trip_c": _Bound(0, 50),
    "pause_s": _Bound(0, 60),
    "critical_c": _Bound(30, 150),
}
CHOICES = {
    "engine": ENGINES,
    "log_level": ("debug", "info", "warning", "error"),
    "children": ("score", "skip"),
    "pictures": ("score", "skip"),
}
ALLOWED_VALUES: Dict[str, Any] = {
    "modality": MODALITIES,
    "view": VIEWS,
    "body_part": BODY_PARTS,
    "dicom": KINDS,
    "kinds": KINDS,
}


class _Source:
    """The file's text, to find the line of an error."""

    def __init__(self, path: str, text: str) -> None:
        self.path = path
        self._lines = text.splitlines()

    def where(self, section: str, key: str = "") -> str:
        inside, line_of_section = False, ""
        for number, line in enumerate(self._lines, 1):
            word = line.strip()
            if word.startswith("["):
                inside = word == "[" + section + "]"
                line_of_section = ", line {}".format(number) if inside else line_of_section
            elif inside and re.split(r"[=:]", word, maxsplit=1)[0].strip().lower() == key:
                return "{}, line {}, [{}] {}".format(self.path, number, section, key)
        return "{}{}, [{}] {}".format(self.path, line_of_section, section, key).rstrip()

    def error(self, what: str, section: str, key: str, expected: str, found: str) -> ConfigError:
        return DaemonConfigError(
            what, expected, repr(found)[:80] if found else None, self.where(section, key)
        )


def _number(text: str, kind: Callable[[str], Any], bound: _Bound) -> Any:
    value = kind(text)
    if not math.isfinite(value) or not bound.low <= value <= bound.high:
        raise ValueError
    return value


def _values(key: str, text: str) -> Names:
    values = tuple(part.strip() for part in re.split(r"[,\n]", text) if part.strip())
    if key == "allow":
        return tuple(str(ipaddress.ip_network(value)) for value in values)
    if key == "allow_aets":
        if not all(_AET.match(value) for value in values):
            raise ValueError
        return values
    values = tuple(value if key in ("dicom", "kinds") else value.upper() for value in values)
    if set(values) - set(ALLOWED_VALUES[key]):
        raise ValueError
    return values


def _expected(key: str, default: Any) -> str:
    if key in BOUNDS:
        kind = "a whole number" if isinstance(default, int) else "a number"
        return "{} from {:g} to {:g}".format(kind, *BOUNDS[key])
    if key in CHOICES:
        return "one of " + ", ".join(CHOICES[key])
    if key == "allow":
        return "networks such as 10.1.0.0/16, with no bit set behind the prefix"
    if key in ALLOWED_VALUES:
        return "some of " + ", ".join(sorted(ALLOWED_VALUES[key]))
    return "1 to 16 letters, digits, space, point, - or _" if "aet" in key else "text"


def _value(key: str, text: str, default: Any) -> Any:
    """One setting from its text; ValueError when it is not valid."""
    if isinstance(default, int):
        return _number(text, int, BOUNDS[key])
    if isinstance(default, float):
        return _number(text, float, BOUNDS[key])
    if isinstance(default, tuple):
        return _values(key, text)
    if key in CHOICES and text not in CHOICES[key]:
        raise ValueError
    if key in ("aet", "calling_aet") and not _AET.match(text):
        raise ValueError
    if "\0" in text or "\n" in text:
        raise ValueError
    if key in PATHS and text:
        return os.path.abspath(os.path.expanduser(text))
    return text


def _section(source: _Source, name: str, items: Dict[str, str], default: Any) -> Any:
    values = default._asdict()
    for key, text in items.items():
        if key not in values:
            known = ", ".join(values)
            raise source.error("Unknown key", name, key, "one of " + known, key)
        try:
            values[key] = _value(key, text.strip(), values[key])
        except ValueError:
            expected = _expected(key, getattr(default, key))
            raise source.error("Value is not valid", name, key, expected, text) from None
    return type(default)(**values)


def _parse(source: _Source, text: str) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(
        interpolation=None, default_section="\0", inline_comment_prefixes=None
    )
    try:
        parser.read_string(text)
    except configparser.Error as error:
        line = getattr(error, "lineno", None)
        if line is None and getattr(error, "errors", None):
            line = error.errors[0][0]  # type: ignore[attr-defined]
        raise DaemonConfigError(
            "Configuration is not INI",
            expected="[section], key = value; every section and key once",
            where="{}{}".format(source.path, ", line {}".format(line) if line else ""),
        ) from None
    return parser


def _check_network(source: _Source, name: str, part: Any, has_token: bool) -> None:
    """Require authentication of every interface that listens beyond this machine."""
    if part.port < 0:
        return
    if bool(part.tls_cert) != bool(part.tls_key):
        raise source.error("TLS is half configured", name, "tls_cert", "tls_cert and tls_key", "")
    if part.tls_ca and not part.tls_cert:
        raise source.error("TLS is half configured", name, "tls_ca", "tls_cert and tls_key", "")
    try:
        local = ipaddress.ip_address(part.host).is_loopback
    except ValueError:
        local = part.host == "localhost"
    if local or has_token or part.tls_ca:
        return
    raise source.error(
        "Interface is open to the network without a check of who calls", name, "host",
        "token_file (REST), allow_aets (DICOM) or tls_ca; or host 127.0.0.1", part.host,
    )  # fmt: skip


def _check_hosts(source: _Source, config: DaemonSettings) -> None:
    hosts = {DESTINATION + name: peer.host for name, peer in config.destinations.items()}
    hosts.update(rest=config.rest.host, dicom=config.dicom.host)
    for section, host in hosts.items():
        if set(host) & set("[]/ "):
            form = "a name or an address alone, IPv6 without brackets"
            raise source.error("Value is not valid", section, "host", form, host)


def _check(source: _Source, config: DaemonSettings) -> DaemonSettings:
    for key in ("bundle", "state"):
        if not getattr(config.daemon, key):
            raise source.error("Key is missing", "daemon", key, "a folder", "")
    if not os.path.isdir(config.daemon.bundle):
        raise source.error(
            "Bundle is not there", "daemon", "bundle", "a folder", config.daemon.bundle
        )
    _check_hosts(source, config)
    _check_network(source, "rest", config.rest, bool(config.rest.token_file))
    _check_network(source, "dicom", config.dicom, bool(config.dicom.allow_aets))
    section, key, fault = check_folders(config, source.path)
    if fault:
        raise source.error(fault, section, key, "folders apart, with all links resolved", "")
    for name, peer in config.destinations.items():
        section = DESTINATION + name
        for key in ("host", "aet"):
            if not getattr(peer, key):
                raise source.error("Key is missing", section, key, "where results go", "")
        if peer.port < 1:
            raise source.error("Value is not valid", section, "port", "1 to 65535", str(peer.port))
        unmade = sorted(set(peer.kinds) - set(config.results.dicom))
        if unmade:
            raise source.error(
                "Results are to be sent that are not made", section, "kinds",
                "kinds that [results] dicom names", ",".join(unmade),
            )  # fmt: skip
    return config


def load_config(path: str) -> DaemonSettings:
    """Read a configuration file.

    Args:
        path: INI file; relative paths in it count from the working directory.

    Raises:
        DaemonConfigError: It cannot be read, or a section, key or value is not known.
    """
    path = str(path)
    try:
        with io.open(path, encoding="utf-8") as stream:
            text = stream.read(MAX_CONFIG_BYTES)
    except (OSError, UnicodeDecodeError) as error:
        found = getattr(error, "strerror", None) or "not UTF-8"
        raise DaemonConfigError("Configuration cannot be read", found=found, where=path) from None
    source = _Source(path, text)
    parser = _parse(source, text)
    parts: Dict[str, Any] = dict(DaemonSettings()._asdict())
    peers: Dict[str, ResultDestination] = {}
    for name in parser.sections():
        items = dict(parser.items(name))
        if name.startswith(DESTINATION) and _NAME.match(name[len(DESTINATION) :].strip()):
            peers[name[len(DESTINATION) :].strip()] = _section(
                source, name, items, ResultDestination()
            )
        elif name in parts and name != "destinations":
            parts[name] = _section(source, name, items, parts[name])
        else:
            known = ", ".join(key for key in parts if key != "destinations")
            raise source.error("Unknown section", name, "", known + " or 'destination NAME'", name)
    parts["destinations"] = peers
    return _check(source, DaemonSettings(**parts))


def check_config(path: str) -> None:
    """Read a configuration file, and open what it names: token, TLS files, bundle.

    Raises:
        DaemonConfigError: The file is wrong, or something that it names.
        PneumoniaError: The bundle is damaged, or DICOM networking is not installed.
    """
    config = load_config(path)
    try:
        check_everything(config)
    except ConfigError as error:
        raise DaemonConfigError.of(error) from None


def allowed(address: str, networks: Names) -> bool:
    """Whether an IP address lies in one of the networks; IPv4 mapped into IPv6 counts as IPv4."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(found, "ipv4_mapped", None)
    found = mapped if mapped is not None else found
    return any(found in ipaddress.ip_network(network) for network in networks)

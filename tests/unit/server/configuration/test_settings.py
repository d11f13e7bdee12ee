"""Settings: distribution's names, four sources, and complaints that say where and what."""

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from alauda_registry.server.configuration.settings import TLSVersion
from alauda_registry.server.configuration.sources import Loaded, Override, load_settings
from alauda_registry.server.configuration.storage_settings import DRIVERS
from alauda_registry.serving.addresses import is_loopback, split_address
from alauda_registry.serving.durations import format_duration, parse_duration
from alauda_registry.serving.logs import Formatter, Level
from alauda_registry.serving.starting import CannotStart

REGISTRY_3 = """\
version: 0.1
log:
  fields:
    service: registry
storage:
  cache:
    blobdescriptor: inmemory
  filesystem:
    rootdirectory: /var/lib/registry
  tag:
    concurrencylimit: 8
http:
  addr: :5000
  headers:
    X-Content-Type-Options: [nosniff]
  debug:
    addr: :5001
    prometheus:
      enabled: true
      path: /metrics
health:
  storagedriver:
    enabled: true
    interval: 10s
    threshold: 3
"""
OPERATOR = {
    "REGISTRY_HTTP_ADDR": ":5000",
    "REGISTRY_HTTP_NET": "tcp",
    "REGISTRY_HTTP_SECRET": "12345",
    "REGISTRY_LOG_LEVEL": "debug",
    "REGISTRY_STORAGE_CACHE_BLOBDESCRIPTOR": "inmemory",
    "REGISTRY_STORAGE_DELETE_ENABLED": "true",
    "REGISTRY_HEALTH_STORAGEDRIVER_ENABLED": "true",
    "REGISTRY_HEALTH_STORAGEDRIVER_INTERVAL": "10s",
    "REGISTRY_HEALTH_STORAGEDRIVER_THRESHOLD": "1",
    "REGISTRY_OPENSHIFT_METRICS_ENABLED": "true",
    "REGISTRY_OPENSHIFT_REQUESTS_READ_MAXRUNNING": "7",
    "REGISTRY_OPENSHIFT_REQUESTS_WRITE_MAXWAITINQUEUE": "1m",
    "REGISTRY_STORAGE_MAINTENANCE_READONLY": "{enabled: true}",
    "REGISTRY_STORAGE_REDIRECT_DISABLE": "true",
    "REGISTRY_STORAGE": "filesystem",
    "REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY": "/registry",
    "REGISTRY_HTTP_TLS_CERTIFICATE": "/etc/secrets/tls.crt",
    "REGISTRY_HTTP_TLS_KEY": "/etc/secrets/tls.key",
    "REGISTRY_HTTP_TLS_MINVERSION": "VersionTLS13",
    "OPENSHIFT_REGISTRY_HTTP_TLS_CIPHERSUITES": "TLS_AES_128_GCM_SHA256,ECDHE-RSA-AES128-SHA",
}


def load(
    text: str = "", environ: Mapping[str, str] | None = None, *overrides: Override, tmp_path: Path
) -> Loaded:
    path = tmp_path / "config.yml"
    path.write_text(text)
    return load_settings(str(path), overrides, environ or {})


def test_without_any_source_the_server_is_local_and_keeps_files() -> None:
    loaded = load_settings(environ={})

    assert loaded.warnings == []
    assert loaded.settings.http.addr == "127.0.0.1:5000"
    assert loaded.settings.storage.root == "/var/lib/registry"
    assert loaded.settings.storage.delete.enabled is True
    assert loaded.settings.workers == 1


def test_configuration_of_registry_3_works_and_warns_of_what_is_elsewhere(tmp_path: Path) -> None:
    loaded = load(REGISTRY_3, tmp_path=tmp_path)

    assert loaded.settings.http.addr == ":5000"
    assert loaded.settings.http.headers == {"X-Content-Type-Options": ("nosniff",)}
    assert loaded.settings.log.fields == {"service": "registry"}
    assert loaded.settings.health.storage_driver.threshold == 3
    assert loaded.warnings == [
        f"{tmp_path}/config.yml: http.debug: there is no separate address; "
        "/metrics is on the main one"
    ]


def test_variables_of_the_openshift_operator_work() -> None:
    loaded = load_settings(environ=OPERATOR)

    settings = loaded.settings
    assert loaded.warnings == []
    assert settings.storage.root == "/registry"
    assert settings.storage.maintenance.read_only.enabled is True
    assert settings.http.secret is not None
    assert settings.http.secret.get_secret_value() == "12345"
    assert settings.http.tls.minimum_tls is TLSVersion.TLS13
    assert settings.http.tls.cipher_suites == ("TLS_AES_128_GCM_SHA256", "ECDHE-RSA-AES128-SHA")
    assert settings.read_limit.max_running == 7
    assert settings.write_limit.max_wait_in_queue == timedelta(minutes=1)
    assert settings.log.level is Level.DEBUG


def test_flags_win_over_variables_and_variables_over_the_file(tmp_path: Path) -> None:
    text = "{workers: 2, log: {level: debug, formatter: json}, http: {addr: 'localhost:1'}}"
    variables = {"REGISTRY_WORKERS": "3", "REGISTRY_LOG_LEVEL": "error"}

    settings = load(
        text, variables, Override("--workers", ("workers",), "4"), tmp_path=tmp_path
    ).settings

    assert (settings.workers, settings.log.level, settings.log.formatter, settings.http.addr) == (
        4,
        Level.ERROR,
        Formatter.JSON,
        "localhost:1",
    )


def test_a_variable_of_a_child_survives_one_of_its_parent() -> None:
    settings = load_settings(
        environ={
            "REGISTRY_STORAGE_MAINTENANCE": "{readonly: {enabled: true}}",
            "REGISTRY_STORAGE_MAINTENANCE_UPLOADPURGING_AGE": "2h",
        }
    ).settings

    assert settings.storage.maintenance.read_only.enabled is True
    assert settings.storage.maintenance.upload_purging.age == timedelta(hours=2)


def test_a_root_on_the_command_line_replaces_the_driver_of_the_file(tmp_path: Path) -> None:
    root = Override("--root", ("storage", "filesystem", "rootdirectory"), "data")

    settings = load(
        "storage: {inmemory: , delete: {enabled: false}}", None, root, tmp_path=tmp_path
    ).settings

    assert settings.storage.root == "data"
    assert settings.storage.delete.enabled is False


@pytest.mark.parametrize(
    ("text", "root", "mounted_at"),
    [
        ("pvc", "/var/lib/registry", "/var/lib/registry"),
        ("{pvc: {rootdirectory: /registry}}", "/registry", "/registry"),
        ("{pvc: {mountpath: /registry/}}", "/registry", "/registry"),
        ("{pvc: {mountpath: /r, rootdirectory: /r/a/b}}", "/r/a/b", "/r"),
    ],
)
def test_a_claim_is_mounted_at_the_root_unless_it_is_said_where(
    text: str, root: str, mounted_at: str, tmp_path: Path
) -> None:
    storage = load(f"storage: {text}", tmp_path=tmp_path).settings.storage

    assert (storage.driver, storage.root) == ("pvc", root)
    assert storage.pvc is not None
    assert storage.pvc.mounted_at == mounted_at


def test_a_deployment_describes_its_claim_by_variables() -> None:
    loaded = load_settings(
        environ={
            "REGISTRY_STORAGE": "pvc",
            "REGISTRY_STORAGE_PVC_CLAIM": "image-registry",
            "REGISTRY_STORAGE_PVC_ROOTDIRECTORY": "/registry",
            "REGISTRY_STORAGE_PVC_RESERVE": "5%",
            "REGISTRY_STORAGE_PVC_EXPECT_FILESYSTEMS": "nfs4, ceph",
            "REGISTRY_STORAGE_PVC_EXPECT_SOURCE": "10.96.*:/exports/*",
            "REGISTRY_STORAGE_PVC_EXPECT_MINIMUMSIZE": "10Gi",
            "REGISTRY_STORAGE_PVC_EXPECT_VOLATILE": "true",
        }
    )
    claim = loaded.settings.storage.pvc

    assert loaded.warnings == []
    assert claim is not None
    assert (claim.claim, claim.root_directory) == ("image-registry", "/registry")
    assert claim.reserve is not None
    assert claim.reserve.of(1000) == 50
    assert claim.expect.file_systems == ("nfs4", "ceph")
    assert claim.expect.source == "10.96.*:/exports/*"
    assert claim.expect.minimum_size is not None
    assert claim.expect.minimum_size.of(0) == 10 << 30
    assert claim.expect.volatile is True


def test_a_root_on_the_command_line_does_not_do_without_the_claim(tmp_path: Path) -> None:
    root = Override("--root", ("storage", "filesystem", "rootdirectory"), "/data")

    for text, environ in (
        ("storage: {pvc: {claim: image-registry}}", {}),
        ("", {"REGISTRY_STORAGE_PVC_CLAIM": "image-registry"}),
        ("storage: inmemory", {"REGISTRY_STORAGE": "pvc"}),
    ):
        storage = load(text, environ, root, tmp_path=tmp_path).settings.storage
        assert (storage.driver, storage.root) == ("pvc", "/data")


def test_an_empty_inmemory_selects_the_driver(tmp_path: Path) -> None:
    assert load("storage:\n  inmemory:\n", tmp_path=tmp_path).settings.storage.root is None


@pytest.mark.parametrize(
    "name",
    [
        "REGISTRY_PORT",
        "REGISTRY_PORT_5000_TCP",
        "REGISTRY_PORT_5000_TCP_ADDR",
        "REGISTRY_SERVICE_HOST",
        "REGISTRY_SERVICE_PORT_HTTPS",
        "REGISTRY_UI_SERVICE_HOST",
        "REGISTRY_UI_PORT",
    ],
)
def test_variables_of_kubernetes_services_are_passed_over(name: str) -> None:
    loaded = load_settings(environ={name: "tcp://10.0.0.1:5000"})

    assert loaded.warnings == []
    assert loaded.settings == load_settings(environ={}).settings


@pytest.mark.parametrize(
    ("text", "warning"),
    [
        ("http: {adr: x}", "unknown key http.adr is ignored; did you mean http.addr?"),
        ("storage: {delet: {enabled: no}}", "did you mean storage.delete?"),
        ("zzzzzzzz: 1", "unknown key zzzzzzzz is ignored"),
        ("notifications: {endpoint: []}", "did you mean notifications.endpoints?"),
    ],
    ids=["leaf", "branch", "nothing-like-it", "below-what-is-not-supported"],
)
def test_an_unknown_key_warns_with_the_nearest_one(text: str, warning: str, tmp_path: Path) -> None:
    loaded = load(text, tmp_path=tmp_path)

    assert len(loaded.warnings) == 1
    assert loaded.warnings[0].startswith(f"{tmp_path}/config.yml: ")
    assert loaded.warnings[0].endswith(warning)


def test_an_unknown_variable_is_named_in_the_warning() -> None:
    loaded = load_settings(environ={"REGISTRY_LOG_LEVL": "debug"})

    assert loaded.warnings == [
        "REGISTRY_LOG_LEVL: unknown key log.levl is ignored; did you mean log.level?"
    ]


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("auth: {silly: {realm: r, service: s}}", "auth.silly"),
        ("auth: silly", "auth.silly"),
        ("storage: {s3: {bucket: images, usefipsendpoint: true}}", "storage.s3.usefips"),
        ("storage: gcs", "storage.gcs"),
        ("proxy: {remoteurl: https://registry.example}", "proxy"),
        ("http: {tls: {letsencrypt: {email: a@example}}}", "http.tls.letsencrypt"),
        ("http: {net: unix}", "http.net"),
        ("middleware: {storage: [{name: cloudfront}]}", "middleware"),
        ("notifications: {endpoints: [{url: http://x}]}", "notifications.endpoints"),
        ("policy: {repository: {classes: [image]}}", "policy"),
        ("validation: {manifests: {urls: {allow: [^https]}}}", "validation.manifests.urls"),
        ("openshift: {quota: {enabled: true}}", "openshift.quota"),
        ("openshift: {metrics: {secret: s}}", "openshift.metrics.secret"),
        ("storage: {maintenance: {uploadpurging: {dryrun: true}}}", "uploadpurging.dryrun"),
    ],
)
def test_what_would_change_behaviour_and_is_not_supported_stops_the_start(
    text: str, key: str, tmp_path: Path
) -> None:
    with pytest.raises(CannotStart) as caught:
        load(text, tmp_path=tmp_path)

    assert str(caught.value).startswith(f"{tmp_path}/config.yml: ")
    assert key in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "auth: none",
        "auth: {none: {}}",
        "http: {tls: {letsencrypt: {}}}",
        "proxy: {remoteurl: ''}",
        "notifications: {endpoints: [{url: http://x, disabled: true}]}",
        "openshift: {quota: {enabled: false}, audit: {enabled: false}, version: 1.0}",
        "validation: {disabled: true}",
        "middleware:",
    ],
)
def test_what_is_switched_off_need_not_be_supported(text: str, tmp_path: Path) -> None:
    assert load(text, tmp_path=tmp_path).warnings == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("workers: two", "workers: must be a whole number (it is 'two')"),
        ("workers: 0", "workers: must be at least 1 (it is '0')"),
        ("workers: 999", "workers: must be at most 256"),
        (
            "auth: {tokenservice: {lifetime: 5s}}",
            "auth.tokenservice.lifetime: must be at least 60s (it is '5s')",
        ),
        ("workers: [1]", "workers: must be a whole number"),
        ("log: {level: loud}", "log.level: must be error, warn, info or debug (it is 'loud')"),
        ("log: {fields: x}", "log.fields: must be a mapping of keys to values"),
        ("storage: {delete: {enabled: maybe}}", "storage.delete.enabled: must be true or false"),
        ("storage: {filesystem: {rootdirectory: ''}}", "rootdirectory: must not be empty"),
        ("http: {host: [a]}", "http.host: must be text"),
        ("http: {tls: {clientcas: {a: b}}}", "http.tls.clientcas: must be a list"),
        ("limits: {bodytimeout: 0s}", "limits.bodytimeout: must be longer than nothing"),
        ("http: {draintimeout: 10}", "such as 10s, 5m, 1h30m or 500ms"),
        ("http: {addr: localhost}", "is not HOST:PORT"),
        ("http: {addr: '::1:5000'}", "in brackets"),
        ("http: {tls: {certificate: c}}", "certificate and key belong together"),
        ('http: {headers: {X-A: "a\\r\\nb"}}', "control characters"),
        ("http: {headers: {'a b': c}}", "is not a header's name"),
        ("http: ':5000'", "http: must be a mapping of keys to values (it is ':5000')"),
        ("storage: {inmemory: , filesystem: }", "both configured"),
        ("storage: {pvc: , filesystem: }", "filesystem and pvc are both configured"),
        ("storage: {pvc: {rootdirectory: data}}", "must be an absolute path"),
        ("storage: {pvc: {mountpath: r}}", "must be an absolute path"),
        ("storage: {pvc: {mountpath: /r, rootdirectory: /registry}}", "rootdirectory must be /r, "),
        ("storage: {pvc: {mountpath: /r, rootdirectory: /r/../x}}", "rootdirectory must be /r, "),
        ("storage: {pvc: {claim: 'a b'}}", "must be the name of a PersistentVolumeClaim"),
        ("storage: {pvc: {reserve: 10GB}}", "write a size such as 512Mi or 10Gi, or a percentage"),
        ("storage: {pvc: {reserve: 100%}}", "must be less than 100%"),
        ("storage: {pvc: {expect: {minimumsize: 5%}}}", "write a size such as 512Mi or 10Gi"),
        ("{workers: 2, storage: inmemory}", "lives in one process"),
        ("[1, 2]", "must hold a mapping"),
        ("log:\n  level: [", "config.yml is not YAML: line 2: "),
        ("log: {}\nhttp: {}\nlog: {}", "not YAML: line 3: 'log' is there a second time"),
        ("log:\n  level: info\n  level: warn", "line 3: 'level' is there a second time"),
        ("[" * 5000, "is not YAML"),
        ("a: \x01", "is not YAML"),
        ("version: 1", "version: must be 0.1"),
    ],
)
def test_a_wrong_value_is_refused_with_its_place(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(CannotStart) as caught:
        load(text, tmp_path=tmp_path)

    assert str(tmp_path) in str(caught.value) or str(caught.value).startswith("settings")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_wrong_value_of_a_variable_names_the_variable() -> None:
    with pytest.raises(CannotStart, match=r"^REGISTRY_WORKERS: workers: .* \(it is 'many'\)$"):
        load_settings(environ={"REGISTRY_WORKERS": "many"})


def test_every_wrong_value_has_a_line_of_its_own(tmp_path: Path) -> None:
    with pytest.raises(CannotStart) as caught:
        load("{workers: two, http: {addr: x}}", {"REGISTRY_LOG_LEVEL": "y"}, tmp_path=tmp_path)

    assert [line.split(": ")[:2] for line in str(caught.value).splitlines()] == [
        [f"{tmp_path}/config.yml", "workers"],
        ["REGISTRY_LOG_LEVEL", "log.level"],
        [f"{tmp_path}/config.yml", "http"],
    ]


def test_a_merged_mapping_may_override_keys(tmp_path: Path) -> None:
    text = "limits: {read: &read {maxrunning: 1}, write: {<<: *read, maxrunning: 2}}"

    assert load(text, tmp_path=tmp_path).settings.write_limit.max_running == 2


PLACES = {
    "filesystem": "a folder",
    "pvc": "a folder",
    "inmemory": "memory",
}
"""Where the image API keeps its objects beside the images of each driver."""


def test_beside_a_bucket_the_objects_of_the_image_api_need_a_file() -> None:
    variables = {
        "REGISTRY_STORAGE_S3_BUCKET": "images",
        "REGISTRY_STORAGE_S3_REGION": "eu-west-1",
        "REGISTRY_IMAGEAPI_ENABLED": "true",
    }

    with pytest.raises(CannotStart, match=r"imageapi\.database must name a file on a local disk"):
        load_settings(environ=variables)
    found = load_settings(environ={**variables, "REGISTRY_IMAGEAPI_DATABASE": "/var/objects.db"})
    assert found.settings.image_api.database == "/var/objects.db"


@pytest.mark.parametrize("driver", [driver for driver in DRIVERS if driver != "s3"])
def test_objects_of_the_image_api_have_a_place_beside_the_images(driver: str) -> None:
    variables = {"REGISTRY_STORAGE": driver, "REGISTRY_IMAGEAPI_ENABLED": "true"}

    storage = load_settings(environ=variables).settings.storage

    assert PLACES[driver] == ("memory" if storage.root is None else "a folder")


def test_an_empty_section_means_the_default(tmp_path: Path) -> None:
    text = "{limits: {read: }, openshift: {requests: {read: {maxrunning: 9}}}}"

    assert load(text, tmp_path=tmp_path).settings.read_limit.max_running == 9


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    path = str(tmp_path / "absent.yml")

    with pytest.raises(CannotStart, match=r"cannot read .*absent\.yml: No such file"):
        load_settings(environ={"REGISTRY_CONFIGURATION_PATH": path})


def test_a_secret_is_not_shown() -> None:
    settings = load_settings(environ={"REGISTRY_HTTP_SECRET": "{not yaml"}).settings

    assert "not yaml" not in repr(settings)
    assert "not yaml" not in str(settings.model_dump(mode="json"))


def test_our_limits_win_over_openshifts(tmp_path: Path) -> None:
    text = "{limits: {read: {maxrunning: 5}}, openshift: {requests: {read: {maxrunning: 9}}}}"

    assert load(text, tmp_path=tmp_path).settings.read_limit.max_running == 5


@given(st.timedeltas(min_value=timedelta(0), max_value=timedelta(days=300)))
def test_a_duration_reads_back_as_it_was_written(duration: timedelta) -> None:
    assert abs(parse_duration(format_duration(duration)) - duration) <= timedelta(microseconds=1)


@pytest.mark.parametrize(
    ("text", "seconds"), [("1h30m", 5400.0), ("1.5s", 1.5), ("500ms", 0.5), ("0", 0.0), (".5m", 30)]
)
def test_durations_are_those_of_go(text: str, seconds: float) -> None:
    assert parse_duration(text).total_seconds() == seconds


@pytest.mark.parametrize("text", ["", "10", "s", "1 s", "-1s", "1d", 5, None, False, "9999999h"])
def test_what_is_no_duration_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match=r"unit|ten years"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        (":5000", ("", 5000)),
        ("127.0.0.1:0", ("127.0.0.1", 0)),
        ("[::1]:80", ("::1", 80)),
        ("a.example:1", ("a.example", 1)),
    ],
)
def test_an_address_is_split_at_its_last_colon(address: str, expected: tuple[str, int]) -> None:
    assert split_address(address) == expected


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("localhost", True),
        ("", False),
        ("0.0.0.0", False),
        ("::", False),
        ("192.168.0.1", False),
        ("localhost.example", False),
    ],
)
def test_only_loopback_is_loopback(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected

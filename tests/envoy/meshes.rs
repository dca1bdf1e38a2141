//! What Istio, Envoy Gateway and Emissary make of our manifests, run by a real Envoy.
//!
//! Each function below turns a manifest into Envoy's configuration as the product does, field by
//! field after its own test data or source:
//!
//! | product       | from                                                                       |
//! |---------------|----------------------------------------------------------------------------|
//! | Istio         | `pilot/pkg/security/authz/builder/testdata/http/extended-custom-http-provider-out2.yaml` |
//! | Envoy Gateway | `internal/xds/translator/testdata/out/xds-ir/ext-auth.{listeners,routes}.yaml` |
//! | Emissary      | `python/ambassador/envoy/v3/v3httpfilter.py` (`V3HTTPFilter_authv1`)        |
//!
//! That is for the filter that asks, and Envoy Gateway's listener. Not from there, but from what is
//! known of the products: the connection manager of Istio and Emissary, Istio's breakers, and the
//! filter of Istio that says which requests are meant.
//!
//! Ours are addresses and time-outs, and that clients say where they are in the PROXY protocol,
//! which all three can be told to read: over loopback all clients would be one.

use std::{net::SocketAddr, time::Duration};

use rustix::process::Signal;
use serde_json::{Value, json};

use super::support::{
    client::{Connection, Response, head},
    envoy::Envoy,
    free_port,
    manifests::{self, of_kind},
    tollgate::{Settings, Tollgate},
    upstream::Upstream,
};

const RULES: &str = "
version: 1
rules:
  - { name: data, match: { path: /data }, key: [client_ip], limit: 2/day }
  - { name: api, match: { path: /api }, key: [{ header: x-api-key }], limit: 1/day }
  - { name: secure, match: { path: /secure, scheme: https }, limit: 0/day }
";

const TYPES: &str = "type.googleapis.com/envoy";

/// Envoy's whole configuration but for what a product says.
struct Parts {
    /// Of the connection manager, beside what every one needs.
    manager: Value,
    /// Before the router.
    filters: Vec<Value>,
    /// Of the one route.
    route: Value,
    /// The name of tollgate's cluster.
    cluster: String,
    breakers: Value,
}

impl Parts {
    fn config(&self, ports: (u16, u16), tollgate: SocketAddr, upstream: SocketAddr) -> String {
        let address = |addr: SocketAddr| json!({ "socket_address": { "address": addr.ip().to_string(), "port_value": addr.port() } });
        let local = |port| address(SocketAddr::from(([127, 0, 0, 1], port)));
        let cluster = |name: &str, addr, breakers: &Value| {
            json!({
                "name": name,
                "connect_timeout": "10s",
                "circuit_breakers": { "thresholds": breakers },
                "load_assignment": {
                    "cluster_name": name,
                    "endpoints": [{ "lb_endpoints": [{ "endpoint": { "address": address(addr) } }] }],
                },
            })
        };
        let mut filters = self.filters.clone();
        filters.push(json!({
            "name": "envoy.filters.http.router",
            "typed_config": { "@type": format!("{TYPES}.extensions.filters.http.router.v3.Router") },
        }));
        let mut route = json!({ "match": { "prefix": "/" }, "route": { "cluster": "upstream" } });
        merge(&mut route, &self.route);
        let mut manager = json!({
            "@type": format!("{TYPES}.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"),
            "stat_prefix": "ingress",
            "use_remote_address": true,
            "route_config": { "virtual_hosts": [{ "name": "all", "domains": ["*"], "routes": [route] }] },
            "http_filters": filters,
        });
        merge(&mut manager, &self.manager);
        let config = json!({
            "admin": { "address": local(ports.1) },
            "overload_manager": { "resource_monitors": [{
                "name": "envoy.resource_monitors.global_downstream_max_connections",
                "typed_config": {
                    "@type": format!("{TYPES}.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig"),
                    "max_active_downstream_connections": 1000,
                },
            }] },
            "static_resources": {
                "listeners": [{
                    "name": "ingress",
                    "address": local(ports.0),
                    "listener_filters": [{
                        "name": "envoy.filters.listener.proxy_protocol",
                        "typed_config": {
                            "@type": format!("{TYPES}.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol"),
                            "allow_requests_without_proxy_protocol": true,
                        },
                    }],
                    "filter_chains": [{ "filters": [{
                        "name": "envoy.filters.network.http_connection_manager",
                        "typed_config": manager,
                    }] }],
                }],
                "clusters": [
                    cluster(&self.cluster, tollgate, &self.breakers),
                    cluster("upstream", upstream, &json!([])),
                ],
            },
        });
        config.to_string()
    }
}

/// Puts the fields of one object into another.
fn merge(into: &mut Value, from: &Value) {
    for (name, value) in from.as_object().unwrap() {
        into[name] = value.clone();
    }
}

/// A filter with this configuration.
fn ext_authz(name: &str, mut config: Value) -> Value {
    config["@type"] = format!("{TYPES}.extensions.filters.http.ext_authz.v3.ExtAuthz").into();
    config["transport_api_version"] = "V3".into();
    // With a second, a slow machine would decide. That tollgate may hang is none of these tests.
    config["http_service"]["server_uri"]["timeout"] = "20s".into();
    json!({ "name": name, "typed_config": config })
}

/// A list of patterns, each for the whole name of a header.
fn exactly(names: &Value) -> Value {
    let names = names.as_array().unwrap().iter();
    let patterns: Vec<Value> = names
        .map(|name| {
            let text = name.as_str().unwrap();
            // Istio takes these for prefixes and suffixes.
            assert!(!text.contains('*'), "{text}");
            json!({ "exact": text, "ignore_case": true })
        })
        .collect();
    json!({ "patterns": patterns })
}

/// Headers with their values.
fn to_add(headers: &Value) -> Value {
    let headers = headers.as_object().unwrap().iter();
    headers
        .map(|(key, value)| json!({ "key": key, "value": value }))
        .collect()
}

/// An ingress gateway of Istio with the policy.
fn istio() -> Parts {
    let mesh = manifests::read("istio/mesh-config.yaml");
    let provider = &mesh[0]["meshConfig"]["extensionProviders"][0];
    let http = &provider["envoyExtAuthzHttp"];
    let policies = manifests::read("istio/authorization-policy.yaml");
    let policy = &of_kind(&policies, "AuthorizationPolicy")["spec"];
    assert_eq!(policy["provider"]["name"], provider["name"]);
    assert_eq!(policy["rules"], json!([{}]), "every request");
    let host = http["service"].as_str().unwrap().split('/').nth(1).unwrap();
    let cluster = format!("outbound|{}||{host}", http["port"]);
    let status = http["statusOnError"].as_str().unwrap();
    let status: u16 = status.parse().unwrap();
    // Says which requests the policy is for; the other filter asks about those.
    let rbac = json!({
        "name": "envoy.filters.http.rbac",
        "typed_config": {
            "@type": format!("{TYPES}.extensions.filters.http.rbac.v3.RBAC"),
            "shadow_rules_stat_prefix": "istio_ext_authz_",
            "shadow_rules": {
                "action": "DENY",
                "policies": {
                    "istio-ext-authz-ns[istio-system]-policy[tollgate]-rule[0]": {
                        "permissions": [{ "any": true }],
                        "principals": [{ "any": true }],
                    },
                },
            },
        },
    });
    let filter = ext_authz(
        "envoy.filters.http.ext_authz",
        json!({
            "allowed_headers": exactly(&http["includeRequestHeadersInCheck"]),
            "failure_mode_allow": http["failOpen"],
            "filter_enabled_metadata": {
                "filter": "envoy.filters.http.rbac",
                "path": [{ "key": "istio_ext_authz_shadow_effective_policy_id" }],
                "value": { "string_match": { "prefix": "istio-ext-authz" } },
            },
            "http_service": {
                "authorization_request": { "headers_to_add": to_add(&http["includeAdditionalHeadersInCheck"]) },
                "authorization_response": {
                    "allowed_client_headers": exactly(&http["headersToDownstreamOnDeny"]),
                    "allowed_client_headers_on_success": exactly(&http["headersToDownstreamOnAllow"]),
                },
                "path_prefix": http["pathPrefix"],
                "server_uri": { "cluster": cluster, "uri": format!("http://{host}") },
            },
            "status_on_error": { "code": status },
        }),
    );
    let most = 4_294_967_295_u32;
    Parts {
        // Its `BASE`, the default, of path normalisation.
        manager: json!({ "normalize_path": true }),
        filters: vec![rbac, filter],
        route: json!({}),
        cluster,
        breakers: json!([{ "max_connections": most, "max_pending_requests": most, "max_requests": most, "max_retries": most }]),
    }
}

/// A Gateway of Envoy Gateway with the policy.
fn envoy_gateway() -> Parts {
    let documents = manifests::read("envoy-gateway/security-policy.yaml");
    let policy = of_kind(&documents, "SecurityPolicy");
    let auth = &policy["spec"]["extAuth"];
    let http = &auth["http"];
    let backend = &http["backendRefs"][0];
    let name = "securitypolicy/default/tollgate";
    let cluster = format!("{name}/tollgate/tollgate");
    let filter_name = format!("envoy.filters.http.ext_authz/{name}");
    let path = http["path"].as_str().unwrap();
    let uri = format!("http://tollgate.tollgate:{}{path}", backend["port"]);
    let mut filter = ext_authz(
        &filter_name,
        json!({
            "allowed_headers": exactly(&auth["headersToExtAuth"]),
            "failure_mode_allow": auth["failOpen"],
            "http_service": {
                "path_prefix": path,
                "server_uri": { "cluster": cluster, "uri": uri },
            },
        }),
    );
    filter["disabled"] = true.into();
    let breaker = &http["backendSettings"]["circuitBreaker"];
    Parts {
        manager: json!({
            "common_http_protocol_options": { "headers_with_underscores_action": "REJECT_REQUEST" },
            "http2_protocol_options": { "max_concurrent_streams": 100 },
            "merge_slashes": true,
            "normalize_path": true,
            "path_with_escaped_slashes_action": "UNESCAPE_AND_REDIRECT",
            "server_header_transformation": "PASS_THROUGH",
        }),
        filters: vec![filter],
        route: json!({ "typed_per_filter_config": { filter_name: {
            "@type": format!("{TYPES}.config.route.v3.FilterConfig"),
            "config": {},
        } } }),
        cluster,
        breakers: json!([{
            "max_connections": breaker["maxConnections"],
            "max_pending_requests": breaker["maxPendingRequests"],
            "max_requests": breaker["maxParallelRequests"],
        }]),
    }
}

/// Emissary with the `AuthService`.
fn emissary() -> Parts {
    let documents = manifests::read("emissary/auth-service.yaml");
    let auth = &of_kind(&documents, "AuthService")["spec"];
    let union = |always: &[&str], given: &Value| {
        let mut names: Vec<Value> = always.iter().map(|name| json!(name)).collect();
        names.extend(given.as_array().unwrap().iter().cloned());
        exactly(&names.into())
    };
    let sent = union(
        &[
            "authorization",
            "cookie",
            "from",
            "proxy-authorization",
            "user-agent",
            "x-forwarded-for",
            "x-forwarded-host",
            "x-forwarded-proto",
        ],
        &auth["allowed_request_headers"],
    );
    let passed_on = union(
        &[
            "location",
            "authorization",
            "proxy-authenticate",
            "set-cookie",
            "www-authenticate",
        ],
        &auth["allowed_authorization_headers"],
    );
    let cluster = "cluster_extauth_tollgate_tollgate_8081_emissary".to_owned();
    let filter = ext_authz(
        "envoy.filters.http.ext_authz",
        json!({
            "clear_route_cache": true,
            "failure_mode_allow": auth["failure_mode_allow"],
            "status_on_error": auth["status_on_error"],
            "http_service": {
                "server_uri": { "cluster": cluster, "uri": "http://v1/envoy" },
                "path_prefix": auth["path_prefix"],
                "authorization_request": {
                    "allowed_headers": sent,
                    "headers_to_add": to_add(&auth["add_auth_headers"]),
                },
                "authorization_response": {
                    "allowed_upstream_headers": passed_on,
                    "allowed_client_headers": passed_on,
                },
            },
        }),
    );
    Parts {
        manager: json!({ "normalize_path": true }),
        filters: vec![filter],
        route: json!({}),
        cluster,
        breakers: auth["circuit_breakers"]
            .as_array()
            .unwrap()
            .iter()
            .map(|breaker| {
                let mut breaker = breaker.clone();
                breaker["priority"] = "DEFAULT".into();
                breaker
            })
            .collect(),
    }
}

struct Mesh {
    envoy: Envoy,
    tollgate: Tollgate,
    upstream: Upstream,
}

const ALICE: &str = "203.0.113.7";
const BOB: &str = "198.51.100.9";

impl Mesh {
    async fn start(parts: Parts) -> Self {
        let upstream = Upstream::start().await;
        let tollgate = Tollgate::start(Settings {
            rules: RULES,
            ..Settings::default()
        })
        .await;
        let (port, admin) = (free_port(), free_port());
        let config = parts.config((port, admin), tollgate.addr(), upstream.addr);
        // Emissary's Envoy is older than the place that allowed_headers have now.
        let known = ["Deprecated field", "deprecated option"];
        let envoy = Envoy::run(&config, port, admin, &known).await;
        Self {
            envoy,
            tollgate,
            upstream,
        }
    }

    /// The answer to a request from this address.
    async fn ask(&self, client: &str, method: &str, target: &str, lines: &[&str]) -> Response {
        let mut connection = Connection::open(self.envoy.addr).await.unwrap();
        let greeting = format!("PROXY TCP4 {client} 192.0.2.80 40000 80\r\n");
        connection.send(greeting).await.unwrap();
        connection.ask(&head(method, target, lines)).await.unwrap()
    }

    async fn get(&self, client: &str, target: &str) -> u16 {
        self.ask(client, "GET", target, &[]).await.status
    }

    /// What every one of them must do.
    async fn holds(&self) {
        for spoofed in ["192.0.2.1", "192.0.2.2"] {
            let (xff, real) = (
                format!("x-forwarded-for: {spoofed}"),
                format!("x-real-ip: {spoofed}"),
            );
            let lines = &[
                &*xff,
                &real,
                "x-forwarded-uri: /x",
                "x-forwarded-method: PUT",
                "x-envoy-expected-rq-timeout-ms: 1",
            ];
            let answer = self.ask(ALICE, "GET", "/data", lines).await;
            assert_eq!(answer.status, 200, "{answer:?}");
        }
        let denied = self
            .ask(ALICE, "GET", "/data", &["x-forwarded-for: 192.0.2.3"])
            .await;
        assert_eq!(denied.status, 429, "{denied:?}");
        let type_ = denied.header("content-type");
        assert_eq!(type_, Some("application/problem+json"));
        for name in ["retry-after", "ratelimit", "ratelimit-policy"] {
            assert!(denied.header(name).is_some(), "{name}: {denied:?}");
        }
        assert_eq!(denied.json()["rule"], "data");
        assert_eq!(self.get(BOB, "/data").await, 200, "another client");

        // No spelling gets past the limit: it is the same path, refused, or sent back to ask again.
        let before = self.upstream.count();
        for target in [
            "//data",
            "/data/",
            "/data?x",
            "/x/../data",
            "/x/%2e%2e/data",
            "/%64ata",
            "/data;x",
            "/x%2f..%2fdata",
            "/v1/../data",
            "/v1/envoy/../../data",
            "/../../data",
            "http://app.test/data",
        ] {
            let status = self.get(ALICE, target).await;
            assert!(matches!(status, 307 | 400 | 429), "{target}: {status}");
        }
        assert_eq!(self.upstream.count(), before);

        for (key, status) in [("k", 200), ("k", 429), ("l", 200)] {
            let line = format!("x-api-key: {key}");
            let answer = self
                .ask(
                    ALICE,
                    "POST",
                    "/api",
                    &[&line, "content-length: 0", "content-type: text/x"],
                )
                .await;
            assert_eq!(answer.status, status, "{key}");
        }
        // Nothing of tollgate's answer takes the place of what the client sent.
        assert_eq!(self.upstream.last().headers["content-type"], "text/x");
        // The scheme is that of the connection, whatever the client says.
        let spoofed = ["x-forwarded-proto: https"];
        let answer = self.ask(ALICE, "GET", "/secure", &spoofed).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        // Paths of tollgate's own are a client's like any other.
        for target in ["/v1/check", "/metrics", "/"] {
            assert_eq!(self.get(ALICE, target).await, 200, "{target}");
        }
        let errors = self.envoy.stat("http.ingress.ext_authz.error").await;
        assert_eq!(errors, 0, "{}", self.tollgate.log());
        let name = "tollgate_checks_total{contract=\"envoy\"}";
        assert!(self.tollgate.metric(name).await > 10);
    }

    /// Without tollgate requests go through, as all of our manifests say.
    async fn fails_open(mut self) {
        self.tollgate.signal(Signal::KILL);
        self.tollgate.ended().await;
        let asked = tokio::time::timeout(Duration::from_secs(60), self.get(ALICE, "/data"));
        assert_eq!(asked.await.unwrap(), 200);
        let let_through = self
            .envoy
            .stat("http.ingress.ext_authz.failure_mode_allowed");
        assert!(let_through.await > 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn istio_limits_as_its_manifests_say() {
    let mesh = Mesh::start(istio()).await;
    mesh.holds().await;
    let admitted = mesh.ask(ALICE, "GET", "/api", &["x-api-key: m"]).await;
    assert!(admitted.header("ratelimit").is_some(), "{admitted:?}");
    let denied = mesh.ask(ALICE, "GET", "/data", &[]).await;
    assert_eq!(denied.header("x-tollgate-rule"), None, "not in the list");
    mesh.fails_open().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn envoy_gateway_limits_as_its_manifests_say() {
    let mesh = Mesh::start(envoy_gateway()).await;
    mesh.holds().await;
    let denied = mesh.ask(ALICE, "GET", "/data", &[]).await;
    assert_eq!(
        denied.header("x-tollgate-rule"),
        Some("data"),
        "it has no list"
    );
    mesh.fails_open().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn emissary_limits_as_its_manifests_say() {
    let mesh = Mesh::start(emissary()).await;
    mesh.holds().await;
    mesh.fails_open().await;
}

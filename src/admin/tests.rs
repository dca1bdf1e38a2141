use super::{explain::MAX_QUERY, *};
use crate::{
    clock::ManualClock,
    engine::Options,
    rulefile::load,
    store::{Store, deadline::Guarded, memory::MemoryStore},
    wire::Body,
};

async fn ask(admin: &Admin, method: &str, path: &str) -> (u16, String, String) {
    ask_with(admin, method, path, Body::Whole(Vec::new())).await
}

async fn ask_with(admin: &Admin, method: &str, path: &str, body: Body) -> (u16, String, String) {
    let request = Request::of(method, path, &[]).unwrap();
    let response = admin.respond(request.with_body(body)).await;
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let header = |name| text(response.get(name).unwrap_or_default());
    let seen = format!("{}|{}|", header("content-type"), header("allow"));
    (response.status().as_u16(), seen, text(response.body()))
}

/// An admin port over one rule and counters in memory.
pub(crate) fn admin() -> (Admin, Health) {
    let health = Health::new();
    let metrics = Arc::new(Metrics::new());
    let clock = Arc::new(ManualClock::new(1_700_000_000_000_000));
    let memory = Arc::new(MemoryStore::new(100, clock, Box::new(|_| {})));
    let rules = "version: 1\nrules: [{ name: all, limit: 5/m }]\n";
    let engine = Engine::new(
        load("rules.yaml", rules).unwrap(),
        Guarded::new(Arc::clone(&memory) as Arc<dyn Store>, Arc::clone(&metrics)),
        memory,
        Arc::clone(&metrics),
        Options::default(),
    );
    let options = AnswerOptions::default();
    let access = Access {
        tokens: None,
        is_local: true,
    };
    let admin = Admin::new(health.clone(), metrics, Arc::new(engine), options, access);
    (admin, health)
}

#[tokio::test]
async fn explain_takes_a_query_of_bounded_length() {
    let (admin, _) = admin();
    let post_body = async |body| ask_with(&admin, "POST", "/explain", body).await;
    let post = async |query: &str| post_body(Body::Whole(query.into())).await;
    let (status, seen, body) = post(r#"{"path":"/data"}"#).await;
    assert_eq!(status, 200, "{body}");
    assert!(seen.starts_with("application/json"), "{seen}");
    assert!(body.contains(r#""rule": "all""#), "{body}");
    assert!(body.contains(r#""read": "memory""#), "{body}");
    let (status, _, body) = post("").await;
    assert_eq!(status, 400);
    assert!(body.contains("this is not a query"), "{body}");
    assert!(body.contains("\nhint: {\"method\""), "{body}");
    for (body, expected) in [(Body::TooLong, 413), (Body::Late, 408), (Body::Broken, 400)] {
        assert_eq!(post_body(body).await.0, expected);
    }
    let wants = |method, path| Admin::wants(&Request::of(method, path, &[]).unwrap());
    assert_eq!(wants("POST", "/explain"), MAX_QUERY);
    assert_eq!(wants("POST", "/rules"), 0);
    let (status, seen, _) = ask(&admin, "GET", "/explain").await;
    assert_eq!(status, 405);
    assert!(seen.contains("|POST|"), "{seen}");
}

#[tokio::test]
async fn each_endpoint_answers_in_its_type() {
    let (admin, _) = admin();
    assert_eq!(
        ask(&admin, "GET", "/livez").await,
        (200, "text/plain; charset=utf-8||".into(), "ok\n".into())
    );
    let (status, seen, body) = ask(&admin, "GET", "/rules?pretty").await;
    assert_eq!(status, 200);
    assert!(seen.starts_with("application/json||"), "{seen}");
    assert!(body.contains(r#""name":"all""#), "{body}");
    let (status, seen, body) = ask(&admin, "GET", "/metrics").await;
    assert_eq!(status, 200);
    assert!(
        seen.starts_with("application/openmetrics-text; version=1.0.0"),
        "{seen}"
    );
    assert!(body.ends_with("# EOF\n"), "{body}");
}

#[tokio::test]
async fn the_page_is_small_and_asks_nobody_else() {
    let (admin, _) = admin();
    let mut size = 0;
    for path in ["/", "/page.js", "/page.css"] {
        let request = Request::of("GET", path, &[]).unwrap();
        let response = admin.respond(request).await;
        let policy = response.get("content-security-policy").unwrap();
        assert!(policy.starts_with(b"default-src 'none'; script-src 'self';"));
        assert_eq!(
            response.get("x-content-type-options"),
            Some(&b"nosniff"[..])
        );
        let text = String::from_utf8(response.body().to_vec()).unwrap();
        for forbidden in [
            "http:",
            "https:",
            "//cdn",
            "innerHTML",
            "insertAdjacent",
            "eval(",
            "style=",
        ] {
            assert!(!text.contains(forbidden), "{path} has {forbidden}");
        }
        size += text.len();
    }
    assert!(size < 40_000, "{size}");
}

#[tokio::test]
async fn readyz_follows_health_livez_does_not() {
    let (admin, health) = admin();
    let store = health.component("store");
    assert_eq!(ask(&admin, "GET", "/readyz").await.0, 503);
    store.degraded("redis is away");
    let (status, _, body) = ask(&admin, "GET", "/readyz").await;
    assert_eq!(status, 200);
    assert!(body.contains("redis is away"), "{body}");
    health.drain();
    assert_eq!(ask(&admin, "GET", "/readyz").await.0, 503);
    assert_eq!(ask(&admin, "GET", "/livez").await.0, 200);
}

#[tokio::test]
async fn head_is_answered_like_get() {
    let (admin, _) = admin();
    let get = ask(&admin, "GET", "/livez").await;
    assert_eq!(ask(&admin, "HEAD", "/livez").await, get);
}

#[tokio::test]
async fn other_methods_and_paths_are_answered_with_what_exists() {
    let (admin, _) = admin();
    let (status, seen, _) = ask(&admin, "POST", "/rules").await;
    assert_eq!(status, 405);
    assert!(seen.contains("|GET, HEAD|"), "{seen}");
    for path in ["/page", "/Rules", "/rules/", "/v1/check"] {
        let (status, _, body) = ask(&admin, "GET", path).await;
        assert_eq!(status, 404, "{path}");
        assert!(
            body.contains(
                "/livez\n/readyz\n/metrics\n/rules\n/rules/refused\n/offenders\n/explain\n"
            ),
            "{body}"
        );
    }
}

/// SECURITY.md says so.
#[tokio::test]
async fn nothing_can_be_changed_and_nobody_listed_without_leave() {
    let (admin, _) = admin();
    for endpoint in Endpoint::ALL {
        let path = endpoint.as_str();
        let is_open = match path {
            "/counters/get" => true,
            "/offenders" | "/rules/refused" => false,
            _ => !path.starts_with("/counters/"),
        };
        let method = endpoint.methods().split(", ").next().unwrap();
        let (status, _, _) = ask(&admin, method, path).await;
        // Without a content type or a host, whatever else they bring.
        let refused = if method == "GET" { 403 } else { 415 };
        assert_eq!(status != refused, is_open, "{path}: {status}");
    }
}

#[test]
fn the_documents_list_every_resource() {
    let operations = std::fs::read_to_string("docs/operations.md").unwrap();
    let module = std::fs::read_to_string("src/admin/mod.rs").unwrap();
    for endpoint in Endpoint::ALL {
        let row = format!("| `{endpoint}` ");
        assert!(
            operations.contains(&row),
            "{endpoint} in docs/operations.md"
        );
        assert!(module.contains(&row), "{endpoint} in src/admin/mod.rs");
    }
}

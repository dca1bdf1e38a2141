use http_body_util::BodyExt as _;

use super::{explain::MAX_QUERY, *};
use crate::{
    clock::ManualClock,
    engine::Options,
    rulefile::load,
    store::{Store, deadline::Guarded, memory::MemoryStore},
};

async fn ask(admin: &Admin, method: Method, path: &str) -> (u16, String, String) {
    ask_with(admin, method, path, "").await
}

async fn ask_with(
    admin: &Admin,
    method: Method,
    path: &str,
    question: &str,
) -> (u16, String, String) {
    let request = Request::builder().method(method).uri(path);
    let body = Full::new(Bytes::copy_from_slice(question.as_bytes()));
    let response = admin.respond(request.body(body).unwrap()).await;
    let status = response.status().as_u16();
    let headers = response.headers();
    let header = |name| {
        headers
            .get(name)
            .map_or("", |v: &HeaderValue| v.to_str().unwrap())
    };
    let seen = format!(
        "{}|{}|{}",
        header("content-type"),
        header("allow"),
        header("content-length")
    );
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, seen, String::from_utf8(body.to_vec()).unwrap())
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
    let admin = Admin::new(health.clone(), metrics, Arc::new(engine), options);
    (admin, health)
}

#[tokio::test]
async fn explain_takes_a_query_of_bounded_length() {
    let (admin, _) = admin();
    let post = async |query: &str| ask_with(&admin, Method::POST, "/explain", query).await;
    let (status, seen, body) = post(r#"{"path":"/data"}"#).await;
    assert_eq!(status, 200, "{body}");
    assert!(seen.starts_with("application/json"), "{seen}");
    assert!(body.contains(r#""rule": "all""#), "{body}");
    assert!(body.contains(r#""read": "memory""#), "{body}");
    let (status, _, body) = post("").await;
    assert_eq!(status, 400);
    assert!(body.contains("this is not a query"), "{body}");
    assert!(body.contains("\nhint: {\"method\""), "{body}");
    let padded = |length: usize| {
        let query = r#"{"path":"/data"}"#;
        query.to_owned() + &" ".repeat(length - query.len())
    };
    assert_eq!(post(&padded(MAX_QUERY)).await.0, 200);
    let (status, _, body) = post(&padded(MAX_QUERY + 1)).await;
    assert_eq!(status, 413, "{body}");
    let (status, seen, _) = ask(&admin, Method::GET, "/explain").await;
    assert_eq!(status, 405);
    assert!(seen.contains("|POST|"), "{seen}");
}

#[tokio::test]
async fn each_endpoint_answers_in_its_type() {
    let (admin, _) = admin();
    assert_eq!(
        ask(&admin, Method::GET, "/livez").await,
        (200, "text/plain; charset=utf-8||3".into(), "ok\n".into())
    );
    let (status, seen, body) = ask(&admin, Method::GET, "/rules?pretty").await;
    assert_eq!(status, 200);
    assert!(seen.starts_with("application/json||"), "{seen}");
    assert!(body.contains(r#""name":"all""#), "{body}");
    let (status, seen, body) = ask(&admin, Method::GET, "/metrics").await;
    assert_eq!(status, 200);
    assert!(
        seen.starts_with("application/openmetrics-text; version=1.0.0"),
        "{seen}"
    );
    assert!(body.ends_with("# EOF\n"), "{body}");
}

#[tokio::test]
async fn readyz_follows_health_livez_does_not() {
    let (admin, health) = admin();
    let store = health.component("store");
    assert_eq!(ask(&admin, Method::GET, "/readyz").await.0, 503);
    store.degraded("redis is away");
    let (status, _, body) = ask(&admin, Method::GET, "/readyz").await;
    assert_eq!(status, 200);
    assert!(body.contains("redis is away"), "{body}");
    health.drain();
    assert_eq!(ask(&admin, Method::GET, "/readyz").await.0, 503);
    assert_eq!(ask(&admin, Method::GET, "/livez").await.0, 200);
}

#[tokio::test]
async fn head_has_the_length_and_no_body() {
    let (admin, _) = admin();
    assert_eq!(
        ask(&admin, Method::HEAD, "/livez").await,
        (200, "text/plain; charset=utf-8||3".into(), String::new())
    );
}

#[tokio::test]
async fn other_methods_and_paths_are_answered_with_what_exists() {
    let (admin, _) = admin();
    let (status, seen, _) = ask(&admin, Method::POST, "/rules").await;
    assert_eq!(status, 405);
    assert!(seen.contains("|GET, HEAD|"), "{seen}");
    for path in ["/", "/Rules", "/rules/", "/v1/check"] {
        let (status, _, body) = ask(&admin, Method::GET, path).await;
        assert_eq!(status, 404, "{path}");
        assert!(
            body.contains("/livez\n/readyz\n/metrics\n/rules\n/explain\n"),
            "{body}"
        );
    }
}

/// SECURITY.md says so. What changes anything would have to ask for a token.
#[test]
fn nothing_can_be_changed_here() {
    for endpoint in Endpoint::ALL {
        let only_explains = endpoint == Endpoint::Explain;
        let methods = if only_explains { "POST" } else { "GET, HEAD" };
        assert_eq!(endpoint.methods(), methods, "{endpoint}");
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

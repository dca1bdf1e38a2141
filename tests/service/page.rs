//! The page of the admin port, in a real browser: what it shows while traffic flows, what can be
//! done with it, and that nothing that a client sent runs in it.

use std::{env, fmt::Write as _, fs, path::Path, process::Command, time::Duration};

use serde_json::Value;

use crate::{
    callers::{Traffic, check},
    support::{
        browser::{Browser, ENTER, TAB},
        client::ask,
        redis::Redis,
        tollgate::{Settings, Tollgate},
    },
};

const RULES: &str = "version: 1
forwarded_headers: \"*\"
rules:
  - { name: health, match: { path: /healthz }, action: allow }
  - { name: internal, match: { path: /internal }, action: deny }
  - { name: login, match: { path: /login }, key: client_ip, limit: 5/day,
      ban: { after: 1000, within: 1h, for: 2h } }
  - { name: search, match: { path: /search }, key: client_ip, limit: 20/m, mode: shadow }
  - { name: api, match: { path: /api }, key: [{ header: x-api-key }], limits: [40/m, 10000/h],
      tiers: [{ name: gold, when: { headers: { x-plan: gold } }, limit: 200/s }] }
";

/// What a client would send to have it run.
const HOSTILE: &str = "<img src=x onerror=\"window.hacked=1\">";

async fn status(tollgate: &Tollgate, ip: &str) -> u16 {
    let request = check("/login", ip, &["x-api-key: k"]);
    ask(tollgate.addr(), &request).await.status
}

async fn start(redis: Option<&Redis>, args: &[&str]) -> Tollgate {
    Tollgate::start(Settings {
        rules: RULES,
        redis,
        args,
        ..Settings::default()
    })
    .await
}

/// Clients who come all the time, some of them too often however slow the machine is, and one of
/// them hostile.
fn clients(tollgate: &Tollgate) -> Traffic {
    Traffic::begin([tollgate.addr()], Duration::from_millis(50), |_| {
        let hostile = format!("x-api-key: {HOSTILE}");
        let mut requests = Vec::new();
        for n in 0..10_u32 {
            let ip = format!("198.51.100.{}", n / 2);
            let line = if n < 6 {
                hostile.clone()
            } else {
                format!("x-plan: gold\r\nx-api-key: key-{}", n / 3)
            };
            let paths = ["/healthz", "/api", "/search"].into_iter();
            requests.extend(paths.map(|path| check(path, &ip, &[&line])));
        }
        let paths = ["/login", "/internal"].into_iter();
        requests.extend(paths.map(|path| check(path, "198.51.100.66", &["x-api-key: k"])));
        requests
    })
}

/// Nothing that should not be there, in the log and in the document.
async fn all_is_quiet(browser: &Browser) {
    let is_hacked = "return window.hacked ?? document.querySelector('img, svg, iframe')?.outerHTML";
    assert_eq!(browser.run(is_hacked).await, Value::Null);
    // The browser notes what was refused; a test asks for that.
    let is_asked_for = |entry: &Value| {
        let message = entry["message"].as_str().unwrap();
        entry["source"] == "network" && message.contains("/explain - ") && message.contains("400")
    };
    let log = browser.log().await.into_iter();
    let log: Vec<Value> = log.filter(|entry| !is_asked_for(entry)).collect();
    assert_eq!(log, Vec::<Value>::new());
}

async fn open(browser: &Browser, tollgate: &Tollgate) {
    browser.open(&format!("http://{}/", tollgate.admin)).await;
    browser
        .until("document.querySelector('#rule-rows').rows.length === 5")
        .await;
}

/// The cell of a rule, by its place in the row.
fn cell(rule: usize, place: usize) -> String {
    format!("document.querySelector('#rule-rows').rows[{rule}].children[{place}].textContent")
}

async fn the_page_works(width: u32, height: u32, picture: &str) {
    let redis = Redis::start();
    let tollgate = start(Some(&redis), &[]).await;
    let traffic = clients(&tollgate);
    let browser = Browser::start(width, height).await;
    browser.prefers("light").await;
    open(&browser, &tollgate).await;

    // It moves while traffic flows.
    let checks = "document.querySelector('#figures dd').textContent";
    browser.until(&format!("parseFloat({checks}) > 0")).await;
    browser
        .until(&format!("parseFloat({}) > 0", cell(4, 2)))
        .await;
    browser
        .until(&format!("parseFloat({}) > 0", cell(4, 3)))
        .await;
    browser
        .until(&format!("{}.includes('would deny')", cell(3, 6)))
        .await;
    let before = browser.text("#figures").await;
    let shown = format!("document.querySelector('#figures').innerText !== {before:?}");
    browser.until(&shown).await;
    assert_eq!(browser.text("#health").await, "ok");
    assert!(before.contains("≤"), "latencies: {before}");
    assert!(before.contains("\u{a0}MB"), "memory: {before}");
    assert!(
        browser
            .text("#rules")
            .await
            .contains("40/m, 10000/h for each header.x-api-key")
    );

    // Who is denied most, the hostile one by what its key is.
    let hostile = "[...document.querySelectorAll('#offenders button')]
        .find((button) => button.textContent.startsWith('header.x-api-key=%3Cimg'))";
    browser.until(hostile).await;
    let offenders = browser.text("#offenders").await;
    assert!(offenders.contains("internal: denied "), "{offenders}");
    assert!(
        offenders.contains("search: would have denied "),
        "{offenders}"
    );
    assert!(offenders.contains("client_ip=198.51.100.66"), "{offenders}");

    // Nothing is cut off beside the screen.
    let overflow = "return document.documentElement.scrollWidth - window.innerWidth";
    assert!(browser.run(overflow).await.as_i64().unwrap() <= 0);
    let too_small = "return [...document.querySelectorAll('button')]
        .filter((button) => button.offsetParent && button.offsetHeight < 24).length";
    assert_eq!(browser.run(too_small).await, 0);

    if env::var_os("TOLLGATE_TEST_WRITE").is_some() {
        // What a small screen shows first is little.
        let top = if width < 600 { "#rules" } else { "body" };
        let scroll = format!("document.querySelector({top:?}).scrollIntoView()");
        browser.run(&scroll).await;
        browser.picture(&Path::new("docs").join(picture)).await;
    }

    a_request_is_explained(&browser).await;
    a_caller_is_reset(&browser, &tollgate).await;
    all_is_quiet(&browser).await;
    // Without Redis, decisions are made as the rules say, and the page says why.
    drop(redis);
    browser
        .until("document.querySelector('#figures').innerText.includes('is away')")
        .await;
    browser
        .until("document.querySelector('#components').innerText.includes('store: degraded – ')")
        .await;
    browser
        .until(&format!("{}.includes('without the store')", cell(4, 6)))
        .await;
    traffic.end().await;

    // It says so when nobody answers any more.
    drop(tollgate);
    let health = "document.querySelector('#health').textContent === 'no answer'";
    browser.until(health).await;
    assert!(browser.text("#note").await.contains("The figures are old"));
}

async fn a_request_is_explained(browser: &Browser) {
    let answer = "document.querySelector('#explain-answer').textContent";
    browser.write("#explain-path", "/api?a=%3Cb%3E").await;
    browser
        .write("#explain-headers", &format!("x-api-key: {HOSTILE}"))
        .await;
    browser.click("#explain-form button").await;
    browser
        .until(&format!("{answer}.includes('x-api-key=%3Cimg')"))
        .await;

    // What is no request is answered with what was asked.
    browser.write("#explain-ip", HOSTILE).await;
    browser.click("#explain-form button").await;
    browser.until(&format!("{answer}.includes('hint: ')")).await;
    let refusal = browser.text("#explain-answer").await;
    assert!(refusal.contains("<img"), "{refusal}");
    browser.write("#explain-headers", HOSTILE).await;
    browser.click("#explain-form button").await;
    browser
        .until(&format!("{answer}.includes('a header is a line')"))
        .await;
    assert!(browser.text("#explain-answer").await.contains("<img"));
}

async fn a_caller_is_reset(browser: &Browser, tollgate: &Tollgate) {
    let ip = "203.0.113.7";
    for _ in 0..5 {
        assert_eq!(status(tollgate, ip).await, 200);
    }
    assert_eq!(status(tollgate, ip).await, 429);
    browser.write("#caller-ip", ip).await;
    browser.click("#caller-form button").await;
    let answer = "document.querySelector('#caller-answer').innerText";
    browser
        .until(&format!(
            "{answer}.includes('login (5/day): 0 left, again in')"
        ))
        .await;

    // Who thinks better of it changes nothing.
    browser.click("#reset").await;
    browser
        .until("document.querySelector('#confirm').open")
        .await;
    assert!(
        browser
            .text("#confirm-text")
            .await
            .contains("login client_ip=203.0.113.7")
    );
    browser.click("#confirm-no").await;
    browser
        .until("!document.querySelector('#confirm').open")
        .await;
    assert_eq!(status(tollgate, ip).await, 429);

    // Without a mouse: to the button, and to the one that confirms.
    browser
        .run("document.querySelector('#token').focus()")
        .await;
    browser.press(&[TAB, TAB, ENTER]).await;
    browser
        .until("document.querySelector('#confirm').open")
        .await;
    browser.press(&[TAB, ENTER]).await;
    browser
        .until(&format!(
            "{answer}.includes('After') && {answer}.includes('5 left')"
        ))
        .await;
    assert_eq!(status(tollgate, ip).await, 200);

    // One that is found among the offenders, by a click.
    let choose = "[...document.querySelectorAll('#offenders button')]
        .find((button) => button.textContent === 'client_ip=198.51.100.66').click()";
    browser.run(choose).await;
    browser
        .until(&format!("{answer}.includes('client_ip=198.51.100.66')"))
        .await;
    browser.click("#unban").await;
    browser
        .until("document.querySelector('#confirm').open")
        .await;
    browser.click("#confirm-yes").await;
    browser.until(&format!("{answer}.includes('After')")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_works_on_a_phone() {
    the_page_works(360, 800, "page-narrow.png").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_works_on_a_wide_screen() {
    the_page_works(1400, 900, "page-wide.png").await;
}

/// Names are made of few characters, and keys are encoded. If they were not, they would be text.
#[tokio::test(flavor = "multi_thread")]
async fn whatever_the_port_says_is_shown_as_text() {
    let tollgate = start(None, &[]).await;
    let browser = Browser::start(1400, 900).await;
    browser.prefers("dark").await;
    open(&browser, &tollgate).await;
    let evil = serde_json::to_string(HOSTILE).unwrap();
    let instead = format!(
        r#"const real = fetch, evil = {evil};
        window.fetch = async (path, how) => {{
          const answer = await real(path, how);
          let text = await answer.text();
          const dirty = (_, value) => (typeof value === "string" && value !== "limit" ? evil : value);
          if (path === "metrics") {{
            const label = JSON.stringify(evil).slice(1, -1);
            text = text.replaceAll('"login"', `"${{label}}"`).replace(/version="[^"]*"/, `version="${{label}}"`)
              .replace(/rules_generation \d+/, "rules_generation 99");
          }} else if (path === "offenders") {{
            const callers = [{{ key: evil, denied_at_least: 1, denied_at_most: 2 }}];
            text = JSON.stringify({{ minutes: 5, rules: [{{ rule: evil, shadow: false, denied: 2, missed: 0, callers }}] }});
          }} else if (path === "readyz") {{
            text = JSON.stringify({{ status: evil, components: [{{ name: "rules", status: evil, detail: evil }}] }});
          }} else if (path === "rules/refused") {{
            text = evil;
          }} else {{
            text = JSON.stringify(JSON.parse(text), dirty);
          }}
          return new Response(text, {{ status: answer.status }});
        }};"#
    );
    browser.run(&instead).await;
    for part in [
        "#version",
        "#health",
        "#components",
        "#refused",
        "#rule-rows",
        "#offenders",
    ] {
        let text = format!("document.querySelector({part:?}).textContent.includes({evil})");
        browser.until(&text).await;
    }
    browser
        .run("document.querySelector('#offenders button').click()")
        .await;
    browser
        .until("document.querySelector('#caller-answer').textContent !== ''")
        .await;
    browser.click("#reset").await;
    // Beside that, what a policy would stop is stopped.
    let injected = format!(
        "try {{ document.body.innerHTML += {evil}; return 'done' }} catch (error) {{ return error.name }}"
    );
    assert_eq!(
        browser
            .run("return document.querySelectorAll('img').length")
            .await,
        0
    );
    assert_eq!(browser.run("return window.hacked").await, Value::Null);
    assert_eq!(browser.run(&injected).await, "TypeError");
    let script = "const s = document.createElement('script');
        try { s.textContent = 'window.hacked = 1'; } catch (error) { return error.name }
        document.body.append(s); return window.hacked ?? 'stopped'";
    assert_eq!(browser.run(script).await, "TypeError");
    let response = tollgate.ask_admin("/").await;
    let policy = response.header("content-security-policy").unwrap();
    assert!(
        policy.starts_with("default-src 'none'; script-src 'self'; "),
        "{policy}"
    );
    assert!(!policy.contains("unsafe"), "{policy}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_rules_are_shown() {
    let mut rules = "version: 1\nrules:\n".to_owned();
    for n in 0..1_000 {
        let _ = writeln!(
            rules,
            "  - {{ name: r{n}, match: {{ path: /p{n} }}, key: client_ip, limit: 5/day }}"
        );
    }
    let tollgate = Tollgate::start(Settings {
        rules: &rules,
        ..Settings::default()
    })
    .await;
    let browser = Browser::start(1400, 900).await;
    browser.open(&format!("http://{}/", tollgate.admin)).await;
    browser
        .until("document.querySelector('#rule-rows').rows.length === 1000")
        .await;
    let request = check("/p999", "203.0.113.7", &["x-api-key: k"]);
    for _ in 0..9 {
        ask(tollgate.addr(), &request).await;
    }
    browser
        .until(&format!("parseFloat({}) > 0", cell(999, 3)))
        .await;
    browser
        .until("document.querySelector('#offenders button')")
        .await;
    // What one look costs the browser, with what the port takes for its answers.
    let took = "const began = performance.now();
        return fetch('metrics').then((answer) => answer.text()).then((text) => {
            const fetched = performance.now();
            const all = series(text);
            seen.add(performance.now(), all);
            rates(seen);
            return [fetched - began, performance.now() - fetched, text.length];
        })";
    let took = browser.run(took).await;
    assert!(took[1].as_f64().unwrap() < 5_000.0, "{took}");
    all_is_quiet(&browser).await;
}

/// What is wrong with the rule file is shown as `tollgate validate` prints it, until it is mended.
#[tokio::test(flavor = "multi_thread")]
async fn a_refused_rule_file_is_shown() {
    let tollgate = start(None, &[]).await;
    let browser = Browser::start(360, 800).await;
    open(&browser, &tollgate).await;
    fs::write(tollgate.rules(), RULES.replace("5/day", "5/fortnight")).unwrap();
    browser
        .until("!document.querySelector('#refused').hidden")
        .await;
    let shown = browser.text("#refused").await;
    let validate = Command::new(env!("CARGO_BIN_EXE_tollgate"))
        .arg("validate")
        .arg(tollgate.rules())
        .output()
        .unwrap();
    let printed = String::from_utf8([validate.stdout, validate.stderr].concat()).unwrap();
    assert!(shown.contains("fortnight"), "{shown}");
    assert!(
        printed.contains(shown.trim()),
        "{printed}\n--- shown:\n{shown}"
    );
    assert_eq!(browser.text("#health").await, "degraded");
    fs::write(tollgate.rules(), RULES).unwrap();
    browser
        .until("document.querySelector('#refused').hidden")
        .await;
    all_is_quiet(&browser).await;
}

/// Where a token is needed, the page says so, and takes one.
#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("tokens");
    fs::write(&file, "ana 0123456789abcdef0\n").unwrap();
    let tollgate = start(None, &[&format!("--admin-tokens={}", file.display())]).await;
    for _ in 0..6 {
        status(&tollgate, "203.0.113.7").await;
    }
    assert_eq!(tollgate.ask_admin("/offenders").await.status, 401);
    let browser = Browser::start(1400, 900).await;
    open(&browser, &tollgate).await;
    let note = "document.querySelector('#offenders-note').textContent";
    browser
        .until(&format!("{note}.includes('this needs a token')"))
        .await;
    browser.write("#caller-ip", "203.0.113.7").await;
    browser.click("#reset").await;
    browser
        .until("document.querySelector('#confirm').open")
        .await;
    browser.click("#confirm-yes").await;
    let answer = "document.querySelector('#caller-answer').innerText";
    browser
        .until(&format!("{answer}.includes('this needs a token')"))
        .await;
    assert_eq!(status(&tollgate, "203.0.113.7").await, 429);

    browser.write("#token", "0123456789abcdef0").await;
    browser
        .until("document.querySelector('#offenders button')")
        .await;
    assert!(browser.text("#offenders").await.contains("login: denied 2"));
    browser.click("#reset").await;
    browser
        .until("document.querySelector('#confirm').open")
        .await;
    browser.click("#confirm-yes").await;
    browser.until(&format!("{answer}.includes('5 left')")).await;
    assert_eq!(status(&tollgate, "203.0.113.7").await, 200);
    tollgate.until_logged("by=\"ana\"").await;
    // It is kept nowhere.
    let stored = "return Object.keys(localStorage).length + Object.keys(sessionStorage).length";
    assert_eq!(browser.run(stored).await, 0);
}

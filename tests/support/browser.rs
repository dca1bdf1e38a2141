//! A real Chromium, driven by chromedriver (W3C `WebDriver`).

use std::{net::SocketAddr, path::Path, process::Command};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{client, free_port, process::Process, program, within};

const INSTALL: &str = "install it with: apt-get install chromium chromium-driver";

/// What the keys are that `WebDriver` calls by code points of its own.
pub const TAB: &str = "\u{e004}";
pub const ENTER: &str = "\u{e007}";

/// A browser with one page, which ends when it is dropped.
pub struct Browser {
    // Its children end with it, by this signal.
    _driver: Process,
    addr: SocketAddr,
    session: String,
    _dir: TempDir,
}

impl Browser {
    /// Starts one whose window shows so many pixels.
    pub async fn start(width: u32, height: u32) -> Self {
        let chromium = program::find("chromium", Some("TOLLGATE_TEST_CHROMIUM"), INSTALL);
        let driver = program::find("chromedriver", None, INSTALL);
        let dir = tempfile::tempdir().unwrap();
        let port = free_port();
        let addr = SocketAddr::from(([127, 0, 0, 1], port));
        let mut command = Command::new(driver);
        command
            .arg(format!("--port={port}"))
            .env("HOME", dir.path());
        let mut driver = Process::spawn("chromedriver", &mut command, dir.path(), INSTALL)
            .ended_by(Signal::TERM);
        let ready = async || {
            let Ok(mut connection) = client::Connection::open(addr).await else {
                return false;
            };
            let status = client::head("GET", "/status", &["host: 127.0.0.1"]);
            let answer = connection.ask(&status).await;
            answer.is_ok_and(|answer| answer.json()["value"]["ready"] == true)
        };
        driver.until_ready(ready).await;
        let profile = format!("--user-data-dir={}", dir.path().join("profile").display());
        // Tests run as root in containers, where there is no sandbox and little shared memory.
        let args = json!([
            "--headless=new",
            "--no-sandbox",
            "--disable-dev-shm-usage",
            "--disable-gpu",
            "--hide-scrollbars",
            "--no-first-run",
            "--disable-background-networking",
            "--force-device-scale-factor=1",
            profile,
        ]);
        let mut browser = Self {
            _driver: driver,
            addr,
            session: String::new(),
            _dir: dir,
        };
        let wanted = json!({ "capabilities": { "alwaysMatch": {
            "browserName": "chrome",
            "goog:chromeOptions": { "binary": chromium, "args": args },
            "goog:loggingPrefs": { "browser": "ALL" },
        } } });
        let opened = browser.post("/session", &wanted).await;
        let session = opened["sessionId"].as_str().unwrap();
        browser.session = format!("/session/{session}");
        // Windows have a least width, a screen has none.
        let metrics = json!({ "cmd": "Emulation.setDeviceMetricsOverride", "params": {
            "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false,
        } });
        browser.command("/goog/cdp/execute", &metrics).await;
        browser
    }

    /// Has the system look light or dark.
    pub async fn prefers(&self, scheme: &str) {
        let features = json!([{ "name": "prefers-color-scheme", "value": scheme }]);
        let media =
            json!({ "cmd": "Emulation.setEmulatedMedia", "params": { "features": features } });
        self.command("/goog/cdp/execute", &media).await;
    }

    /// Opens a page.
    pub async fn open(&self, url: &str) {
        self.command("/url", &json!({ "url": url })).await;
    }

    /// What a script in the page returns.
    pub async fn run(&self, script: &str) -> Value {
        self.command("/execute/sync", &json!({ "script": script, "args": [] }))
            .await
    }

    /// The text that an element shows.
    pub async fn text(&self, selector: &str) -> String {
        let script = format!("return document.querySelector({selector:?})?.innerText ?? ''");
        self.run(&script).await.as_str().unwrap().to_owned()
    }

    /// Polls until an expression in the page is true; fails with what the page shows.
    pub async fn until(&self, expression: &str) {
        let script = format!("return Boolean({expression})");
        let mut times = 0;
        within(std::time::Duration::from_secs(60), expression, async || {
            times += 1;
            if times == 200 {
                eprintln!("{expression} is not so:\n{}", self.text("body").await);
            }
            self.run(&script).await == true
        })
        .await;
    }

    /// Clicks on an element, as with a mouse.
    pub async fn click(&self, selector: &str) {
        let element = self.element(selector).await;
        self.command(&format!("/element/{element}/click"), &json!({}))
            .await;
    }

    /// Writes into a field, instead of what is there.
    pub async fn write(&self, selector: &str, text: &str) {
        let element = self.element(selector).await;
        self.command(&format!("/element/{element}/clear"), &json!({}))
            .await;
        let keys = json!({ "text": text });
        self.command(&format!("/element/{element}/value"), &keys)
            .await;
    }

    /// Presses keys, one after the other, wherever the focus is.
    pub async fn press(&self, keys: &[&str]) {
        let press =
            |key: &&str| ["keyDown", "keyUp"].map(|what| json!({ "type": what, "value": key }));
        let actions: Vec<Value> = keys.iter().flat_map(press).collect();
        let keys = json!({ "actions": [{ "type": "key", "id": "keys", "actions": actions }] });
        self.command("/actions", &keys).await;
    }

    /// What the browser has logged since it was last asked: errors of scripts, of the network, and
    /// of policies.
    pub async fn log(&self) -> Vec<Value> {
        let log = self.command("/se/log", &json!({ "type": "browser" })).await;
        log.as_array().unwrap().clone()
    }

    /// Writes a picture of the window into a file.
    pub async fn picture(&self, file: &Path) {
        let answer = self.get("/screenshot").await;
        let png = STANDARD.decode(answer.as_str().unwrap()).unwrap();
        std::fs::write(file, png).unwrap();
    }

    async fn element(&self, selector: &str) -> String {
        let by = json!({ "using": "css selector", "value": selector });
        let found = self.command("/element", &by).await;
        let mut ids = found.as_object().unwrap().values();
        ids.next().unwrap().as_str().unwrap().to_owned()
    }

    async fn command(&self, path: &str, body: &Value) -> Value {
        self.post(&format!("{}{path}", self.session), body).await
    }

    async fn post(&self, path: &str, body: &Value) -> Value {
        let body = body.to_string();
        let length = format!("content-length: {}", body.len());
        let lines = ["host: 127.0.0.1", "content-type: application/json", &length];
        let mut request = client::head("POST", path, &lines);
        request.extend(body.as_bytes());
        self.send(path, &request).await
    }

    async fn get(&self, path: &str) -> Value {
        let path = format!("{}{path}", self.session);
        let request = client::head("GET", &path, &["host: 127.0.0.1"]);
        self.send(&path, &request).await
    }

    async fn send(&self, path: &str, request: &[u8]) -> Value {
        let answer = client::ask(self.addr, request).await;
        let mut value = answer.json();
        assert_eq!(answer.status, 200, "{path}: {}", value["value"]["message"]);
        value["value"].take()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // chromedriver ends its browser with a session; a test that fails leaves it no time to.
        let request = format!(
            "DELETE {} HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n",
            self.session
        );
        if let Ok(mut stream) = std::net::TcpStream::connect(self.addr) {
            use std::io::{Read as _, Write as _};
            let patience = std::time::Duration::from_secs(5);
            let _ = stream.set_read_timeout(Some(patience));
            let _ = stream.write_all(request.as_bytes());
            let _ = stream.read(&mut [0; 512]);
        }
    }
}

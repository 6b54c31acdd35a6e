//! The page of the stats port in a real headless Chromium: figures move, an outage shows and clears, and what strangers
//! call their metrics stays text. Screenshots are left in `.cache/page` for whoever reviews.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::shared::skip;
use crate::world::*;

/// A browser that looks at one page.
struct Browser {
    child: Child,
    questions: ChildStdin,
    answers: BufReader<ChildStdout>,
}

fn found(program: &str) -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?)
        .map(|folder| folder.join(program))
        .find(|path| path.is_file())
}

/// Where what comes from npm is kept: the project's cache.
fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(".cache/page")
}

/// Whether a package of npm is there, by now.
fn has(package: &str, version: u32) -> bool {
    if folder().join("node_modules").join(package).exists() {
        return true;
    }
    std::fs::create_dir_all(folder()).unwrap();
    let mut install = Command::new("npm");
    install.args(["install", "--no-audit", "--no-fund", "--prefix"]).arg(folder());
    install.arg(format!("{package}@{version}")).stdout(Stdio::null());
    install.status().is_ok_and(|status| status.success())
}

impl Browser {
    fn open(url: &str) -> Option<Self> {
        let chromium =
            found("chromium").or_else(|| found("chromium-browser")).or_else(|| found("google-chrome"))?;
        found("node").and(found("npm"))?;
        // It drives a browser that is there already.
        assert!(has("playwright-core", 1), "npm install playwright-core");
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/e2e/page/look.mjs");
        let mut child = Command::new("node")
            .arg(script)
            .arg(url)
            .arg(folder())
            .env("CHROMIUM", chromium)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (questions, answers) =
            (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        Some(Self { child, questions, answers })
    }

    fn ask(&mut self, question: &str) -> Value {
        writeln!(self.questions, "{question}").unwrap();
        let mut answer = String::new();
        self.answers.read_line(&mut answer).unwrap();
        serde_json::from_str(&answer).unwrap_or_else(|_| panic!("{question}: {answer:?}"))
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn the_page_shows_what_happens_and_strangers_names_stay_text() {
    let world = World::new();
    world.answers("refuse(bad.)");
    let daemon = world.daemon(&[]);
    let url = daemon.stats_url().replace("/stats", "/");
    let Some(mut browser) = Browser::open(&url) else {
        skip("the page in a browser: it takes chromium, node and npm");
        return;
    };

    daemon.send_lines("a", 250);
    daemon.send("<script>alert(1)</script> x 1\n<img/src=x/onerror=alert(2)>\n");
    daemon.expect_delivered(250);
    let law = browser.ask("text law");
    assert!(law.as_str().unwrap().contains("received 250 = skipped 0 + buffered 0 + delivered 250"), "{law}");
    assert!(browser.ask("text health").as_str().unwrap().contains("all is well"));
    assert_eq!(
        browser.ask("help"),
        "Every datapoint that was ever received is in exactly one of these places."
    );

    assert_eq!(browser.ask("text senders"), "127.0.0.1250100 %");
    // Hostile names are there to be read, and are nothing but text.
    assert!(browser.ask("text reasons").as_str().unwrap().contains("<script>alert(1)</script>"));
    assert_eq!(browser.ask("elements - main script"), 0);
    assert_eq!(browser.ask("elements - img"), 0);

    daemon.send(format!("<svg/onload=alert(3)> nan 1\nbad.<img/src=x/onerror=alert(4)> 1 {}\n", now()));
    daemon.expect_settled(252);
    let reasons = browser.ask("text reasons");
    for name in ["<svg/onload=alert(3)> NaN 1", "\"bad.<img/src=x/onerror=alert(4)>\""] {
        assert!(reasons.as_str().unwrap().contains(name), "{reasons}");
    }
    assert_eq!(browser.ask("elements - #reasons :not(dt):not(dd)"), 0);

    world.blueflood.pause();
    daemon.send_lines("b", 50);
    assert_eq!(browser.ask("until health does not take metrics"), true);
    world.blueflood.resume().unwrap();
    assert_eq!(browser.ask("until law delivered 300"), true);
    // One was refused within five minutes: that is no peace, and the title says so too.
    assert_eq!(browser.ask("until health delivering, with losses: 1 refused for"), true);
    assert_eq!(browser.ask("until next dead-letters list"), true);
    assert!(browser.ask("title").as_str().unwrap().contains("losing – blueflood-forward on "));
    assert!(
        browser.ask("stops").as_u64().unwrap() < 16,
        "a keyboard is soon through: {}",
        browser.ask("stops")
    );

    assert_eq!(browser.ask("shoot"), true, "the page fits a phone");
    let has_axe = has("axe-core", 4);
    if has_axe {
        assert_eq!(browser.ask("barriers"), serde_json::json!([]), "found by axe-core");
    } else {
        skip("whether the page can be read by everyone: axe-core cannot be had from npm");
    }
    assert_eq!(browser.ask("errors"), serde_json::json!([]));

    // A daemon that is gone is said to be, and what is shown is of the past.
    drop(daemon);
    assert_eq!(browser.ask("until health the daemon does not answer"), true);
    assert_eq!(browser.ask("elements - body.gone"), 1);
    assert!(browser.ask("title").as_str().unwrap().contains("gone"));
    if has_axe {
        assert_eq!(browser.ask("barriers-gone"), serde_json::json!([]), "found by axe-core");
    }
}

/// Who runs no script sees the verdict all the same, and strangers' words stay text in it.
#[test]
fn the_page_is_served_filled_in() {
    let world = World::new();
    world.answers("404x*");
    let daemon = world.daemon(&["--tenant", "<b>&\"acme"]);
    daemon.send_lines("kept", 3);
    daemon.expect("wrong", |stats| stats["verdict"]["condition"] == "wrong");
    let (_, page) = daemon.get("/");
    assert!(
        page.contains(r#"<p id="condition">wrong</p>"#) && page.contains("a setting must be wrong"),
        "{page}"
    );
    assert!(
        page.contains("3 datapoints are kept") && page.contains("check --blueflood and --tenant"),
        "{page}"
    );
    assert!(
        page.contains("tenant <b id=\"tenant\">&lt;b&gt;&amp;&quot;acme</b>") && !page.contains("{{"),
        "{page}"
    );
    // So do the samples of what was lost, and no box is shown that only a script fills.
    daemon.send("<svg/onload=alert(1)> nan 1\n");
    daemon.expect("skipped", |stats| !stats["verdict"]["losses"][0]["last"].is_null());
    let (_, page) = daemon.get("/");
    assert!(page.contains("<dt>skipped: value_nan</dt><dd>1, the last from 127.0.0.1:"), "{page}");
    assert!(page.contains("&lt;svg/onload=alert(1)&gt; NaN 1</dd>") && !page.contains("<svg"), "{page}");
    assert!(page.contains("<td data-name=\"datapoints\">3</td>"), "{page}");
    assert!(
        page.contains("received 4 = skipped 1 + buffered 3") && page.contains(" KiB of 1.0 GiB</p>"),
        "{page}"
    );
    assert!(page.contains("class=\"unscripted\"") && page.contains("since "), "{page}");
}

/// Makes the pictures of `config/pictures` anew: a flow, and one of which some is lost. What an operator looks at is the
/// last minutes, so they have to pass.
#[test]
#[ignore = "make pictures: it takes five minutes, and a browser"]
fn pictures() {
    let (well, losing) = (World::new(), World::new());
    losing.answers("refuse(bad.)");
    let daemons = [&well, &losing].map(|world| world.daemon(&["--interval", "5"]));
    let [well, losing] = &daemons;
    // They go on sending while they are looked at, until the daemons are gone.
    let mut senders = daemons.each_ref().map(|daemon| daemon.connect());
    std::thread::spawn(move || {
        for round in 0_usize.. {
            let flow = lines(&format!("web{}.cpu", round % 7), 40 + round % 9);
            let bad = format!("bad.host 1 {}\nweb1.cpu 0.5\nweb2.cpu nan {}\n", now(), now());
            let texts = [flow.clone(), if round % 5 == 0 { flow + &bad } else { flow }];
            for (sender, text) in senders.iter_mut().zip(texts) {
                if sender.write_all(text.as_bytes()).is_err() {
                    return;
                }
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    });
    while losing.stats()["uptime_s"].as_u64() < Some(300) {
        std::thread::sleep(Duration::from_secs(1));
    }
    picture(well, "page.png", 1_000, "light");
    picture(losing, "losing.png", 1_000, "light");
    picture(losing, "phone-dark.png", 390, "dark");
}

/// A picture of a daemon's page, in `config/pictures`.
fn picture(daemon: &Daemon, name: &str, width: u32, scheme: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/pictures").join(name);
    let url = daemon.expect_said("showing its figures")["url"].as_str().unwrap().replace("/stats", "/");
    let mut browser = Browser::open(&url).expect("chromium, node and npm");
    assert!(has("upng-js", 2), "npm install upng-js");
    let bytes = browser.ask(&format!("picture {width} {scheme} {}", path.display()));
    assert!(bytes.as_u64() < Some(120_000), "{name}: {bytes} bytes");
}

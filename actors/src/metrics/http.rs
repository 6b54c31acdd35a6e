//! Owns the HTTP side of the stats port: its routes, who may ask, and what a browser may do with the answers.
//! It never changes anything: every route only looks.

use std::{
    net::{Ipv4Addr, Ipv6Addr, TcpListener},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use actix::Addr;
use actix_web::{
    App, Error, FromRequest, Handler, HttpResponse, HttpServer, Resource, Responder,
    body::MessageBody,
    dev::{Server, ServiceRequest, ServiceResponse},
    guard,
    http::header::{ALLOW, ContentType, HOST},
    middleware::{DefaultHeaders, Next, from_fn},
    web::{self, Data},
};
use bytes::Bytes;
use futures_util::stream;
use serde_json::json;

use super::{HistoryOf, Metrics, SharedSources, Snapshot, View, figures, page};
use crate::tap;

/// How long a request for figures may take to arrive.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// Connections that may be open at once: more have to wait.
pub const CONNECTIONS_MAX: usize = 128;

/// How often an open page is told.
const EVENT_EVERY: Duration = Duration::from_secs(1);

/// Pages that are told at once, at most.
const EVENT_STREAMS_MAX: usize = 32;

/// The page loads nothing from elsewhere, runs no script but its own, and cannot be framed. What strangers named
/// their metrics is text on it, and could do nothing even if it were not.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// What the routes share.
struct Shared {
    metrics: Addr<Metrics>,
    loopback_only: bool,
    sources: SharedSources,
    streams: Arc<AtomicUsize>,
}

/// A server on a bound port; it lives as long as it is polled.
pub(super) fn server(
    socket: TcpListener,
    metrics: Addr<Metrics>,
    sources: SharedSources,
) -> std::io::Result<Server> {
    let loopback_only = socket.local_addr()?.ip().is_loopback();
    let taps = Data::new(sources.read().taps.clone());
    let shared = Data::new(Shared { metrics, loopback_only, sources, streams: Arc::default() });
    let app = move || {
        let headers = DefaultHeaders::new()
            .add(("Content-Security-Policy", POLICY))
            .add(("X-Content-Type-Options", "nosniff"))
            .add(("Referrer-Policy", "no-referrer"))
            .add(("Cache-Control", "no-store"));
        let app = App::new()
            .app_data(shared.clone())
            .app_data(taps.clone())
            .wrap(from_fn(check_host))
            .wrap(headers)
            .service(look("/", page))
            .service(look("/page.js", || {
                file("text/javascript; charset=utf-8", include_str!("page/page.js"))
            }))
            .service(look("/page.css", || file("text/css; charset=utf-8", include_str!("page/page.css"))))
            .service(look("/events", events))
            .service(look("/tap", tap::http::tap))
            .service(look("/history", history))
            .service(look("/settings", settings_shown))
            .service(look("/stats", stats))
            .service(look("/metrics", prometheus))
            .service(look("/healthz", health))
            .service(look("/readyz", readiness))
            .service(look("/delivering", delivering))
            .default_service(web::to(elsewhere));
        #[cfg(feature = "faults")]
        let app = app
            .route("/fault/{place}", web::post().to(arm_fault))
            .route("/end/{actor}/{how}", web::post().to(end_actor));
        app
    };
    Ok(HttpServer::new(app)
        .workers(1)
        .max_connections(CONNECTIONS_MAX)
        .disable_signals()
        .client_request_timeout(REQUEST_TIMEOUT)
        .shutdown_timeout(1)
        .listen(socket)?
        .run())
}

/// Something that can be looked at: with GET or, by a check that wants no body, with HEAD.
fn look<F, Args>(path: &'static str, show: F) -> Resource
where
    F: Handler<Args>,
    Args: FromRequest + 'static,
    F::Output: Responder + 'static,
{
    let looks = guard::Any(guard::Get()).or(guard::Head());
    let others = || async { HttpResponse::MethodNotAllowed().insert_header((ALLOW, "GET, HEAD")).finish() };
    web::resource(path).route(web::route().guard(looks).to(show)).default_service(web::to(others))
}

/// A web page that a browser on this host shows can name this port by a DNS name of its own and read the answer
/// ("rebinding"): on a loopback port the `Host` must be loopback too.
async fn check_host(
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<impl MessageBody>, Error> {
    let loopback_only = request.app_data::<Data<Shared>>().is_some_and(|shared| shared.loopback_only);
    // A browser always says one. A check that speaks HTTP/1.0 need not.
    let host = request.headers().get(HOST);
    if loopback_only && host.is_some_and(|host| !host.to_str().is_ok_and(is_loopback)) {
        let text =
            "this port answers to localhost, 127.0.0.1 and [::1] only: check the Host of your request\n";
        return Ok(request.into_response(HttpResponse::Forbidden().body(text)).map_into_right_body());
    }
    Ok(next.call(request).await?.map_into_left_body())
}

/// Whether a `Host` header names this host's loopback, and nothing more.
fn is_loopback(host: &str) -> bool {
    let (name, port) = match host.strip_prefix('[').and_then(|v6| v6.split_once(']')) {
        Some((v6, port)) => {
            if !v6.parse::<Ipv6Addr>().is_ok_and(|ip| ip.is_loopback()) {
                return false;
            }
            ("localhost", port)
        }
        None => match host.find(':') {
            Some(colon) => host.split_at(colon),
            None => (host, ""),
        },
    };
    let is_port = |digits: &str| digits.bytes().all(|byte| byte.is_ascii_digit());
    let names_loopback =
        name.eq_ignore_ascii_case("localhost") || name.parse::<Ipv4Addr>().is_ok_and(|ip| ip.is_loopback());
    names_loopback && (port.is_empty() || port.strip_prefix(':').is_some_and(is_port))
}

/// Says what there is, where nothing is.
async fn elsewhere() -> HttpResponse {
    let text = "nothing is here: see /, /stats, /metrics, /healthz, /readyz and /delivering\n";
    HttpResponse::NotFound().content_type("text/plain; charset=utf-8").body(text)
}

async fn file(kind: &'static str, text: &'static str) -> HttpResponse {
    HttpResponse::Ok().content_type(kind).body(text)
}

async fn view(shared: &Shared) -> Result<View, Error> {
    shared.metrics.send(Snapshot).await.map_err(actix_web::error::ErrorServiceUnavailable)
}

async fn page(shared: Data<Shared>) -> Result<HttpResponse, Error> {
    let text = page::page(&view(&shared).await?, include_str!("page/index.html"));
    Ok(HttpResponse::Ok().content_type("text/html; charset=utf-8").body(text))
}

async fn stats(shared: Data<Shared>) -> Result<HttpResponse, Error> {
    Ok(HttpResponse::Ok().json(view(&shared).await?.json()))
}

async fn prometheus(shared: Data<Shared>) -> Result<HttpResponse, Error> {
    let text = figures::text(&view(&shared).await?);
    Ok(HttpResponse::Ok().content_type("text/plain; version=0.0.4; charset=utf-8").body(text))
}

async fn health(shared: Data<Shared>) -> Result<HttpResponse, Error> {
    Ok(judgement(view(&shared).await?.ailments()))
}

async fn readiness(shared: Data<Shared>) -> Result<HttpResponse, Error> {
    Ok(judgement(view(&shared).await?.hindrances()))
}

async fn delivering(shared: Data<Shared>) -> Result<HttpResponse, Error> {
    Ok(judgement(view(&shared).await?.obstacles()))
}

/// 200 if nothing is wrong, else 503, with what it is.
fn judgement(wrong: Vec<String>) -> HttpResponse {
    let mut response = if wrong.is_empty() { HttpResponse::Ok() } else { HttpResponse::ServiceUnavailable() };
    let body = json!({ "ok": wrong.is_empty(), "wrong": wrong });
    response.insert_header(ContentType::json()).body(format!("{body}\n"))
}

async fn settings_shown(shared: Data<Shared>) -> HttpResponse {
    HttpResponse::Ok().json(json!({ "settings": shared.sources.read().settings }))
}

async fn history(shared: Data<Shared>) -> Result<HttpResponse, Error> {
    let past = shared.metrics.send(HistoryOf).await.map_err(actix_web::error::ErrorServiceUnavailable)?;
    Ok(HttpResponse::Ok().json(json!({ "points": past.points, "minutes": past.minutes })))
}

/// Tells a page once a second, as server-sent events, until it goes away.
async fn events(shared: Data<Shared>) -> HttpResponse {
    let streams = shared.streams.clone();
    if streams.fetch_add(1, Ordering::Relaxed) >= EVENT_STREAMS_MAX {
        streams.fetch_sub(1, Ordering::Relaxed);
        return HttpResponse::ServiceUnavailable().body("too many pages are open already\n");
    }
    let open = OpenStream(streams);
    let ticks = tokio::time::interval(EVENT_EVERY);
    let events = stream::unfold((shared, ticks, open), |(shared, mut ticks, open)| async move {
        ticks.tick().await;
        let view = view(&shared).await.ok()?;
        let event = Bytes::from(format!("data: {}\n\n", view.json()));
        Some((Ok::<_, Error>(event), (shared, ticks, open)))
    });
    HttpResponse::Ok().content_type("text/event-stream").streaming(Box::pin(events))
}

struct OpenStream(Arc<AtomicUsize>);

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Lets a test choose where the next panic is.
#[cfg(feature = "faults")]
async fn arm_fault(place: web::Path<String>) -> HttpResponse {
    crate::faults::arm(place.into_inner());
    HttpResponse::NoContent().finish()
}

/// Lets a test end an actor: `panic` or `stop`.
#[cfg(feature = "faults")]
async fn end_actor(path: web::Path<(String, String)>) -> HttpResponse {
    use crate::faults::Fault;
    let (actor, how) = path.into_inner();
    let how = if how == "panic" { Fault::Panic } else { Fault::Stop };
    if crate::faults::end(&actor, how) {
        HttpResponse::NoContent().finish()
    } else {
        HttpResponse::NotFound().finish()
    }
}

#[cfg(test)]
mod tests {
    use super::is_loopback;

    #[test]
    fn only_names_of_the_loopback_are_loopback() {
        for host in ["localhost", "LOCALHOST:8004", "127.0.0.1", "127.1.2.3:80", "[::1]", "[::1]:8004"] {
            assert!(is_loopback(host), "{host}");
        }
        for host in [
            "",
            "evil.example",
            "127.0.0.1.evil.example",
            "localhost.evil.example:8004",
            "[::2]",
            "10.0.0.1",
            "[::1].evil.example",
            "[::1]evil.example",
            "[::1",
            "::1",
            "[127.0.0.1]",
            "127.0.0.1:80@evil.example",
            "localhost:80:80",
            "evil.example:80@localhost",
            "localhost ",
        ] {
            assert!(!is_loopback(host), "{host}");
        }
    }
}

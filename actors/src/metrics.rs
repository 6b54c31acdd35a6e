//! Owns the local HTTP port and the view of all counters. Data flows whether it lives or not: the others count in
//! what they share with it, and never wait for it.

mod view;

use std::{
    net::{IpAddr, TcpListener},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use actix::{Actor, Addr, AsyncContext, Context, Handler, Message, MessageResult};
use actix_web::{
    App, Error, HttpResponse, HttpServer,
    body::MessageBody,
    dev::{Server, ServerHandle, ServiceRequest, ServiceResponse},
    http::header::{ContentType, HOST},
    middleware::{Next, from_fn},
    web,
};
use slog::{Logger, error};
use tokio::sync::watch;

pub use self::view::View;
use crate::{
    faults,
    forwarder::SharedStatus,
    listener::Desk,
    spool::Spool,
    supervisor::{Lifeline, Vitals, supervised},
};

/// How long a request for figures may take to arrive.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// Everything that is looked at.
#[derive(Clone)]
pub struct Sources {
    /// The spool, and with it the ledger.
    pub spool: Spool,
    /// The forwarder.
    pub forwarder: SharedStatus,
    /// The listeners.
    pub listeners: Vec<Arc<Desk>>,
    /// The actors.
    pub vitals: Vec<Arc<Vitals>>,
    /// Log records that were lost.
    pub log_records_lost: Arc<AtomicU64>,
    /// When the daemon started.
    pub started: Instant,
    /// Whether it is stopping.
    pub stop: watch::Receiver<bool>,
}

/// All figures at one instant.
#[derive(Message)]
#[rtype(result = "View")]
pub struct Snapshot;

/// The actor.
pub struct Metrics {
    _line: Lifeline,
    sources: Sources,
    /// The bound port, if there is to be one.
    socket: Option<Arc<TcpListener>>,
    log: Logger,
    server: Option<ServerHandle>,
}

impl Metrics {
    /// A view of `sources`, served on `socket`.
    pub fn new(line: Lifeline, sources: Sources, socket: Option<Arc<TcpListener>>, log: Logger) -> Self {
        Self { _line: line, sources, socket, log, server: None }
    }

    fn serve(&mut self, ctx: &Context<Self>) -> std::io::Result<()> {
        let Some(socket) = &self.socket else { return Ok(()) };
        let server = server(socket.try_clone()?, ctx.address())?;
        self.server = Some(server.handle());
        let log = self.log.clone();
        actix_rt::spawn(async move {
            if let Err(error) = server.await {
                error!(log, "the stats port failed"; "error" => %error);
            }
        });
        Ok(())
    }
}

impl Actor for Metrics {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        if let Err(error) = self.serve(ctx) {
            error!(self.log, "the stats port cannot be served"; "error" => %error);
        }
    }
}

impl Drop for Metrics {
    /// However an incarnation ends, its server must not answer for the next.
    fn drop(&mut self) {
        if let Some(server) = &self.server {
            // The command is sent at once; nobody waits for its end.
            drop(server.stop(false));
        }
    }
}

supervised!(Metrics);

impl Handler<Snapshot> for Metrics {
    type Result = MessageResult<Snapshot>;

    fn handle(&mut self, _: Snapshot, _: &mut Self::Context) -> Self::Result {
        faults::point("metrics.snapshot");
        let Sources { spool, forwarder, listeners, vitals, log_records_lost, started, stop } = &self.sources;
        MessageResult(View {
            ledger: spool.ledger().snapshot(),
            spool: spool.status(),
            forwarder: forwarder.snapshot(),
            listeners: listeners.iter().map(|desk| view::Listener::of(desk)).collect(),
            actors: vitals.iter().map(|vitals| view::ActorState::of(vitals)).collect(),
            log_records_lost: log_records_lost.load(Ordering::Relaxed),
            uptime: started.elapsed(),
            stopping: *stop.borrow(),
        })
    }
}

fn server(socket: TcpListener, metrics: Addr<Metrics>) -> std::io::Result<Server> {
    let loopback = socket.local_addr()?.ip().is_loopback();
    let metrics = web::Data::new(metrics);
    let app = move || {
        let app = App::new()
            .app_data(metrics.clone())
            .app_data(web::Data::new(LoopbackOnly(loopback)))
            .wrap(from_fn(check_host))
            .route("/stats", web::get().to(stats))
            .route("/metrics", web::get().to(prometheus))
            .route("/healthz", web::get().to(health))
            .route("/readyz", web::get().to(readiness));
        #[cfg(feature = "faults")]
        let app = app
            .route("/fault/{place}", web::post().to(arm_fault))
            .route("/end/{actor}/{how}", web::post().to(end_actor));
        app
    };
    Ok(HttpServer::new(app)
        .workers(1)
        .disable_signals()
        .client_request_timeout(REQUEST_TIMEOUT)
        .shutdown_timeout(1)
        .listen(socket)?
        .run())
}

/// Whether the port is bound to loopback, so that only this host may be meant.
struct LoopbackOnly(bool);

/// A web page that a browser on this host shows can name this port by a DNS name of its own and read the answer
/// ("rebinding"): on a loopback port the `Host` must be loopback too.
async fn check_host(
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<impl MessageBody>, Error> {
    let loopback_only = request.app_data::<web::Data<LoopbackOnly>>().is_some_and(|only| only.0);
    let host = request.headers().get(HOST).and_then(|host| host.to_str().ok());
    if loopback_only && !host.is_some_and(is_loopback) {
        let text =
            "this port answers to localhost, 127.0.0.1 and [::1] only: check the Host of your request\n";
        return Ok(request.into_response(HttpResponse::Forbidden().body(text)).map_into_right_body());
    }
    Ok(next.call(request).await?.map_into_left_body())
}

/// Whether a `Host` header names this host's loopback.
fn is_loopback(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(v6) => v6.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

async fn view(metrics: &Addr<Metrics>) -> Result<View, Error> {
    metrics.send(Snapshot).await.map_err(actix_web::error::ErrorServiceUnavailable)
}

async fn stats(metrics: web::Data<Addr<Metrics>>) -> Result<HttpResponse, Error> {
    Ok(HttpResponse::Ok().json(view(&metrics).await?.json()))
}

async fn prometheus(metrics: web::Data<Addr<Metrics>>) -> Result<HttpResponse, Error> {
    let text = view(&metrics).await?.prometheus();
    Ok(HttpResponse::Ok().content_type("text/plain; version=0.0.4; charset=utf-8").body(text))
}

async fn health(metrics: web::Data<Addr<Metrics>>) -> Result<HttpResponse, Error> {
    Ok(judgement(view(&metrics).await?.ailments()))
}

async fn readiness(metrics: web::Data<Addr<Metrics>>) -> Result<HttpResponse, Error> {
    Ok(judgement(view(&metrics).await?.hindrances()))
}

/// 200 if nothing is wrong, else 503, with what it is.
fn judgement(wrong: Vec<String>) -> HttpResponse {
    let mut response = if wrong.is_empty() { HttpResponse::Ok() } else { HttpResponse::ServiceUnavailable() };
    let body = serde_json::json!({ "ok": wrong.is_empty(), "wrong": wrong });
    response.insert_header(ContentType::json()).body(format!("{body}\n"))
}

/// Lets a test choose where the next panic is.
#[cfg(feature = "faults")]
async fn arm_fault(place: web::Path<String>) -> HttpResponse {
    faults::arm(place.into_inner());
    HttpResponse::NoContent().finish()
}

/// Lets a test end an actor: `panic` or `stop`.
#[cfg(feature = "faults")]
async fn end_actor(path: web::Path<(String, String)>) -> HttpResponse {
    use crate::supervisor::Fault;
    let (actor, how) = path.into_inner();
    let how = if how == "panic" { Fault::Panic } else { Fault::Stop };
    if faults::end(&actor, how) {
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
        for host in
            ["", "evil.example", "127.0.0.1.evil.example", "localhost.evil.example:8004", "[::2]", "10.0.0.1"]
        {
            assert!(!is_loopback(host), "{host}");
        }
    }
}

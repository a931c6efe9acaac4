//! Listening, and ending well.

use super::Server;
use std::future::Future;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::oneshot;

/// Time for the last bytes of answers whose requests have ended.
const GRACE: Duration = Duration::from_secs(2);

impl Server {
    /// Serves until `stop` is done. Then no new connections and no new requests; those that run may end within
    /// `deadline`, what is left is cancelled, and the engine is shut down.
    ///
    /// Errors: those of the listener.
    pub async fn serve(
        &self,
        listener: TcpListener,
        stop: impl Future<Output = ()> + Send + 'static,
        deadline: Duration,
    ) -> std::io::Result<()> {
        let (close, closed) = oneshot::channel::<()>();
        let http = axum::serve(listener, self.router()).with_graceful_shutdown(async {
            // A sender that is gone closes, too.
            let _ = closed.await;
        });
        let mut http = tokio::spawn(http.into_future());
        tokio::select! {
            ended = &mut http => return ended.unwrap_or_else(|e| Err(std::io::Error::other(e))),
            () = stop => {}
        }
        let _ = close.send(());
        if let Some(engine) = self.engine().cloned() {
            let drained = tokio::task::spawn_blocking(move || engine.shutdown(deadline)).await;
            drained.map_err(std::io::Error::other)?;
        }
        // A client that does not read its answer must not hold up the end.
        match tokio::time::timeout(GRACE, &mut http).await {
            Ok(ended) => ended.unwrap_or_else(|e| Err(std::io::Error::other(e))),
            Err(_) => {
                http.abort();
                Ok(())
            }
        }
    }
}

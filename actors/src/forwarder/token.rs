//! Owns how a request comes to its token: who is asked, and what it means if there is none. It never asks Keystone itself.

use std::{sync::Arc, time::Duration};

use crate::{
    core::verdict::NO_TOKEN,
    keystone_auth::{GetToken, NoToken, Rejected, Token},
    supervisor::{Gone, Link},
};

/// Where tokens come from.
#[derive(Clone)]
pub struct Auth {
    /// For a token.
    pub get: Link<GetToken>,
    /// For a newer one.
    pub rejected: Link<Rejected>,
}

/// Why there is no token.
pub(crate) struct Missing {
    pub(crate) cause: String,
    pub(super) retry_in: Duration,
}

/// A token for the next request, newer than the one that was refused; none if none is wanted.
pub(crate) async fn token(auth: Option<Auth>, refused: Option<u64>) -> Result<Option<Arc<Token>>, Missing> {
    let Some(auth) = auth else { return Ok(None) };
    let token = match refused {
        Some(generation) => auth.rejected.ask(|| Rejected { generation }).await,
        None => auth.get.ask(|| GetToken).await,
    };
    match token {
        Ok(Ok(token)) => Ok(Some(token)),
        Ok(Err(NoToken { cause, retry_in, .. })) => {
            Err(Missing { cause: format!("{NO_TOKEN}: {cause}"), retry_in })
        }
        Err(Gone) => Err(Missing { cause: "the daemon is stopping".to_owned(), retry_in: Duration::ZERO }),
    }
}

//! An address gets each new checkpoint posted: a mailing list, a chat, another company's archive.

use axum::http::Uri;

use super::{Anchor, AnchorError, client::Client};
use crate::log::Signed;

pub(super) struct Post {
    client: Client,
    url: String,
    /// What is said of it: such an address often has a secret in its path.
    host: String,
    /// What it has, since we started: after that it gets the newest once more.
    posted: Option<(String, u64)>,
}

impl Post {
    pub(super) fn new(client: &Client, url: &Uri) -> Self {
        let host = url.authority().map_or("", |authority| authority.host()).to_owned();
        Self { client: client.clone(), url: url.to_string(), host, posted: None }
    }
}

#[async_trait::async_trait]
impl Anchor for Post {
    fn name(&self) -> String {
        format!("the address at {}", self.host)
    }

    async fn take(&mut self, signed: &Signed) -> Result<(), AnchorError> {
        let this = (signed.origin.clone(), signed.size);
        if self.posted.as_ref() == Some(&this) {
            return Ok(());
        }
        let answer = self.client.post(&self.url, signed.note.clone()).await?;
        if !answer.status.is_success() {
            let (status, text) = (answer.status.as_u16(), answer.shown());
            return Err(AnchorError::Answered { status, text });
        }
        self.posted = Some(this);
        Ok(())
    }
}

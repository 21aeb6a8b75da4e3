//! What ours is measured against: each used plainly, with the settings that cost it least.

pub mod aws;
pub mod opendal;

use anyhow::{Context, Result};

const REGION: &str = "us-east-1";

struct Keys {
    access: String,
    secret: String,
}

impl Keys {
    fn of_the_environment() -> Result<Self> {
        let read = |name: &str| std::env::var(name).with_context(|| format!("{name} is not set"));
        Ok(Self { access: read("AWS_ACCESS_KEY_ID")?, secret: read("AWS_SECRET_ACCESS_KEY")? })
    }
}

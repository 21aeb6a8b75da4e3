//! Waits for a broker that is on its way: tries until the first record is acked.

use std::time::Duration;

use anyhow::{Result, ensure};
use seawall_protocol::ApiKey;
use seawall_protocol::messages::produce_response::ProduceResponse;
use tokio::time::{Instant, sleep};

use super::producer::{PRODUCE_VERSION, error_code, request};
use super::resolve;
use super::wire::Wire;

#[derive(Debug, Clone, clap::Args)]
pub struct FirstAckArgs {
    #[arg(long)]
    pub bootstrap: String,
    /// It exists; the record goes to its first partition.
    #[arg(long)]
    pub topic: String,
    /// Seconds.
    #[arg(long, default_value_t = 60.0)]
    pub patience: f64,
}

pub async fn wait(args: &FirstAckArgs) -> Result<()> {
    let address = resolve(&args.bootstrap)?;
    let frame = request(&args.topic, 0, 100)?;
    let began = Instant::now();
    loop {
        let acked = async {
            let mut wire = Wire::connect(address).await?;
            let response = wire.exchange::<ProduceResponse>(ApiKey::Produce, PRODUCE_VERSION, &frame).await?;
            anyhow::Ok(error_code(&response) == Some(0))
        };
        if acked.await.unwrap_or(false) {
            println!("acked after {:.0} ms", began.elapsed().as_secs_f64() * 1e3);
            return Ok(());
        }
        ensure!(began.elapsed().as_secs_f64() < args.patience, "no ack in {} s", args.patience);
        sleep(Duration::from_millis(2)).await;
    }
}

//! Addresses are translated between the containers of one network, as a rule does that an earlier network with the same
//! addresses left over: the master sees every worker at the network's gateway, where nobody serves.

use std::process::Command;

use anyhow::{Result, ensure};
use larder_tests::{
    docker::{both, engine, ok},
    skip::skip,
    trees,
};

use crate::{networks::Bridge, put};

/// A rule of the kernel's packet filter, until it is dropped.
struct Rule(String);

impl Rule {
    fn masquerade(subnet: &str) -> Result<Self> {
        let rule = Self(subnet.to_owned());
        rule.change("-I")?;
        Ok(rule)
    }

    fn change(&self, how: &str) -> Result<()> {
        let rule = ["POSTROUTING", "-s", &self.0, "!", "-o", "lo", "-j", "MASQUERADE"];
        let output = Command::new("iptables").args(["-w", "-t", "nat", how]).args(rule).output()?;
        ensure!(output.status.success(), "iptables: {}", both(&output));
        Ok(())
    }
}

impl Drop for Rule {
    fn drop(&mut self) {
        // The network goes too: without it the rule fits nothing.
        let _ = self.change("-D");
    }
}

#[test]
fn a_worker_is_reached_though_the_master_sees_it_at_another_address() -> Result<()> {
    const TEST: &str = "a_worker_is_reached_though_the_master_sees_it_at_another_address";
    let Some(engine) = engine(TEST) else { return Ok(()) };
    let network = engine.network()?;
    let subnet = ok(&["network", "inspect", "-f", "{{(index .IPAM.Config 0).Subnet}}", network.name()])?;
    let _rule = match Rule::masquerade(subnet.trim()) {
        Ok(rule) => rule,
        Err(error) => {
            skip(TEST, &format!("no rule can be made here: {error:#}"));
            return Ok(());
        }
    };
    let bridge = Bridge::on(network, engine, 1, &[])?;
    if !bridge.master.logs().contains("addresses are translated") {
        skip(TEST, "the kernel does not translate addresses within a network (br_netfilter)");
        return Ok(());
    }
    let content = trees::bytes(7, 3 << 20);
    put(&bridge.under, "file", &content)?;
    let client = bridge.client();
    let client: Vec<&str> = client.iter().map(String::as_str).collect();
    let read = engine.once(&client, &["--timeout", "10s", "fs", "cat", "/file"])?;
    ensure!(read.status.success() && read.stdout == content, "{}", String::from_utf8_lossy(&read.stderr));
    let own = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}";
    let own = bridge.workers[0].inspect(own)?;
    let report = bridge.master.ok(&["larder", "fsadmin", "report", "workers", "--json"])?;
    ensure!(report.contains(&format!("\"{own}\"")) || report.contains(&format!("\"{own}:")), "not at {own}: {report}");
    Ok(())
}

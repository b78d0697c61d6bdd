//! Certificates for servers on this machine, made by openssl.

use anyhow::{Context, Result, ensure};
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use tempfile::TempDir;

/// An authority, and a certificate for 127.0.0.1 that it has signed. All of it as PEM.
#[derive(Debug)]
pub struct Certificates {
    /// The authority's certificate.
    pub authority: String,
    /// The server's certificate.
    pub chain: String,
    /// The server's private key.
    pub key: String,
}

impl Certificates {
    /// Makes them.
    ///
    /// # Errors
    /// When there is no openssl to make them with.
    pub fn new() -> Result<Self> {
        let dir = TempDir::with_prefix("tidegate-tls-")?;
        let key = [
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-config",
            "openssl.cnf",
        ];
        let authority = [
            "-x509",
            "-days",
            "3650",
            "-keyout",
            "ca.key",
            "-out",
            "ca.pem",
            "-extensions",
            "authority",
        ];
        let server = [
            "-new",
            "-subj",
            "/CN=tidegate test server",
            "-keyout",
            "server.key",
            "-out",
            "server.csr",
        ];
        let sign = [
            "-req",
            "-in",
            "server.csr",
            "-CA",
            "ca.pem",
            "-CAkey",
            "ca.key",
            "-CAcreateserial",
            "-days",
            "3650",
        ];
        let signed = ["-extfile", "openssl.cnf", "-extensions", "server", "-out", "server.pem"];
        fs::write(dir.path().join("openssl.cnf"), OPENSSL_CNF)?;
        openssl(dir.path(), &[&["req"], &key[..], &authority].concat())?;
        openssl(dir.path(), &[&["req"], &key[..], &server].concat())?;
        openssl(dir.path(), &[&["x509"], &sign[..], &signed].concat())?;
        let read = |name: &str| fs::read_to_string(dir.path().join(name));
        Ok(Self {
            authority: read("ca.pem")?,
            chain: read("server.pem")?,
            key: read("server.key")?,
        })
    }
}

fn openssl(dir: &Path, arguments: &[&str]) -> Result<()> {
    let mut command = Command::new("openssl");
    let output = command.current_dir(dir).args(arguments).stdin(Stdio::null()).output();
    let output =
        output.context("no openssl to make certificates with: install the package `openssl`")?;
    ensure!(output.status.success(), "openssl: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

const OPENSSL_CNF: &str = "
[req]
distinguished_name = name
prompt = no
[name]
CN = tidegate test authority
[authority]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign
subjectKeyIdentifier = hash
[server]
basicConstraints = CA:FALSE
subjectAltName = IP:127.0.0.1, DNS:localhost
extendedKeyUsage = serverAuth
";

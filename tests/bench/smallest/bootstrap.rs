use rmux_bootstrap::{Role, rmux_daemon};

#[rmux_daemon]
async fn main(role: Role) -> Result<(), Box<dyn std::error::Error>> {
    match role {
        Role::Server(mut listener) => {
            while let Some(connection) = listener.accept().await? {
                tokio::spawn(async move { drop(connection) });
            }
        }
        Role::Client(client) => drop(client.connect_or_start().await?),
    }
    Ok(())
}

//! The flags as typed: names, help, and which command has them. Everything is text here; `super` gives it meaning.

use argh::{ArgsInfo, FromArgs};

/// AT Protocol events to Kafka: nothing lost, in order.
#[derive(FromArgs, ArgsInfo, Debug)]
pub struct TopLevel {
    #[argh(subcommand)]
    pub command: Command,
}

#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(subcommand)]
pub enum Command {
    Firehose(Firehose),
    Ozone(Ozone),
    Record(Record),
    Healthcheck(Healthcheck),
    Completions(Completions),
    Man(Man),
}

/// Reads repository events.
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(subcommand, name = "firehose")]
pub struct Firehose {
    #[argh(subcommand)]
    pub mode: Mode,
}

#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(subcommand)]
pub enum Mode {
    Relay(Relay),
    Tap(Tap),
    Replay(Replay),
}

/// Declares the commands that write events: each with its own flags and the shared ones, which stand here once. Those of
/// the second block are shared by the commands of the firehose.
macro_rules! writing_commands {
    (@shared $(#[$doc:meta])* $shared:ident { $($(#[$meta:meta])* $field:ident: $outer:ident $(<$inner:ident>)?,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone)]
        pub struct $shared {
            $(pub $field: $outer $(<$inner>)?,)*
        }
    };
    (@command $({ $($(#[$shared_meta:meta])* $field:ident: $outer:ident $(<$inner:ident>)?,)* })* $(#[$meta:meta])* $name:ident { $($own:tt)* }) => {
        #[derive(FromArgs, ArgsInfo, Debug)]
        $(#[$meta])*
        pub struct $name {
            $($own)*
            $($($(#[$shared_meta])* pub $field: $outer $(<$inner>)?,)*)*
        }
    };
    (@part $method:ident $shared:ident { $($(#[$meta:meta])* $field:ident: $outer:ident $(<$inner:ident>)?,)* } $name:ident) => {
        impl $name {
            pub fn $method(&self) -> $shared {
                $shared { $($field: self.$field.clone(),)* }
            }
        }
    };
    (writing $writing:tt enriching $enriching:tt firehose { $($(#[$meta:meta])* $name:ident $own:tt)* } others { $($(#[$other_meta:meta])* $other:ident $other_own:tt)* }) => {
        writing_commands!(@shared /** The flags that every command has which writes events. */ Writing $writing);
        writing_commands!(@shared /** The flags about the accounts behind the events of the firehose. */ Enriching $enriching);
        $(
            writing_commands!(@command $writing $enriching $(#[$meta])* $name $own);
            writing_commands!(@part writing Writing $writing $name);
            writing_commands!(@part enriching Enriching $enriching $name);
        )*
        $(
            writing_commands!(@command $writing $(#[$other_meta])* $other $other_own);
            writing_commands!(@part writing Writing $writing $other);
        )*
    };
}

writing_commands! {
    writing {
        /// brokers of Kafka, host:port; without any, events go to standard output, one a line
        #[argh(option, arg_name = "host:port")]
        bootstrap_servers: Vec<String>,
        /// topic that the events go to
        #[argh(option, arg_name = "topic")]
        output_topic: Option<String>,
        /// write the envelope that the Osprey rules engine reads
        #[argh(switch)]
        osprey_compatible: bool,
        /// worker id in Osprey's action ids, 0..31 (default 1)
        #[argh(option, arg_name = "n")]
        snowflake_worker_id: Option<String>,
        /// data center id in Osprey's action ids, 0..31 (default 0)
        #[argh(option, arg_name = "n")]
        snowflake_data_center_id: Option<String>,
        /// add the Kafka headers seq, action and collection to each record
        #[argh(switch)]
        record_headers: bool,

        /// only ops on these collections: app.bsky.feed.post, app.bsky.*, *
        #[argh(option, arg_name = "pattern")]
        watched_collections: Vec<String>,
        /// all but ops on these collections
        #[argh(option, arg_name = "pattern")]
        ignored_collections: Vec<String>,
        /// only events of these accounts; @file reads one DID a line
        #[argh(option, arg_name = "did|@file")]
        watched_dids: Vec<String>,
        /// all but events of these accounts; @file reads one DID a line
        #[argh(option, arg_name = "did|@file")]
        ignored_dids: Vec<String>,
        /// do not check that each record hashes to its CID
        #[argh(switch)]
        no_verify: bool,

        /// where cursors are kept (default $STATE_DIRECTORY, else ./atkafka-state; none when events go to standard output)
        #[argh(option, arg_name = "dir")]
        state_dir: Option<String>,
        /// threads that decode (default: the cores less one for the reader and one for the Kafka client, at least 1)
        #[argh(option, arg_name = "n")]
        workers: Option<String>,
        /// bytes of frames in flight, such as 64MiB or 1GiB (default 256MiB)
        #[argh(option, arg_name = "size")]
        memory_limit: Option<String>,

        /// librdkafka (default), or kafka: a pure-Rust client for brokers up to 3.9, at least once, without TLS, SASL, headers and times
        #[argh(option, arg_name = "client")]
        kafka_client: Option<String>,
        /// none, gzip, snappy, lz4 or zstd (default lz4; none with --osprey-compatible and with --kafka-client kafka)
        #[argh(option, arg_name = "codec")]
        compression: Option<String>,
        /// any librdkafka property, such as linger.ms=20; may repeat
        #[argh(option, arg_name = "key=value")]
        kafka_config: Vec<String>,
        /// certificates to trust instead of the system's, for HTTPS and wss://, a PEM file (for brokers: --tls-ca-file)
        #[argh(option, arg_name = "file")]
        ca_file: Option<String>,
        /// encrypt the connections to the brokers
        #[argh(switch)]
        tls: bool,
        /// certificates to trust instead of the system's, a PEM file
        #[argh(option, arg_name = "file")]
        tls_ca_file: Option<String>,
        /// the client's own certificate, a PEM file
        #[argh(option, arg_name = "file")]
        tls_cert_file: Option<String>,
        /// the key of the client's own certificate, a PEM file
        #[argh(option, arg_name = "file")]
        tls_key_file: Option<String>,
        /// PLAIN, SCRAM-SHA-256, SCRAM-SHA-512 or OAUTHBEARER
        #[argh(option, arg_name = "name")]
        sasl_mechanism: Option<String>,
        /// user at the brokers
        #[argh(option, arg_name = "user")]
        sasl_username: Option<String>,
        /// password at the brokers; better in the environment or in a file
        #[argh(option, arg_name = "password")]
        sasl_password: Option<String>,
        /// file that holds the password
        #[argh(option, arg_name = "file")]
        sasl_password_file: Option<String>,
        /// OAUTHBEARER: where tokens come from, by client credentials, such as https://id.example.com/oauth/token
        #[argh(option, arg_name = "url")]
        sasl_oauth_token_url: Option<String>,
        /// OAUTHBEARER: the client's id there
        #[argh(option, arg_name = "id")]
        sasl_oauth_client_id: Option<String>,
        /// OAUTHBEARER: the client's secret; better in the environment or in a file
        #[argh(option, arg_name = "secret")]
        sasl_oauth_client_secret: Option<String>,
        /// OAUTHBEARER: file that holds the client's secret
        #[argh(option, arg_name = "file")]
        sasl_oauth_client_secret_file: Option<String>,
        /// OAUTHBEARER: scope to ask for, several with blanks
        #[argh(option, arg_name = "scope")]
        sasl_oauth_scope: Option<String>,
        /// partitions of a topic that is created (default: the broker's default)
        #[argh(option, arg_name = "n")]
        topic_partitions: Option<String>,
        /// replicas of a topic that is created (default: the broker's default)
        #[argh(option, arg_name = "n")]
        topic_replication: Option<String>,
        /// do not create topics that are absent: wait until somebody does
        #[argh(switch)]
        no_create_topic: bool,
        /// topic for what cannot become an event: the raw bytes, with headers that say why (default: only the log)
        #[argh(option, arg_name = "topic")]
        dead_letter_topic: Option<String>,

        /// address of /metrics, /healthz and /readyz, or none (default 0.0.0.0:6009)
        #[argh(option, arg_name = "ip:port")]
        metrics_listen_address: Option<String>,
        /// error, warn, info or debug (default info)
        #[argh(option, arg_name = "level")]
        log_level: Option<String>,
        /// text or json (default text)
        #[argh(option, arg_name = "format")]
        log_format: Option<String>,
        /// the same as --log-level debug
        #[argh(switch)]
        debug: bool,
    }

    enriching {
        /// PDS hosts to take events of: bsky.network, *.bsky.network, https://host, host:port (default: all)
        #[argh(option, arg_name = "host")]
        watched_services: Vec<String>,
        /// PDS hosts to leave out
        #[argh(option, arg_name = "host")]
        ignored_services: Vec<String>,
        /// events of accounts whose PDS is not known, with a list of services: pass or drop (default pass)
        #[argh(option, arg_name = "policy")]
        unresolved_services: Option<String>,
        /// address of a PLC directory, such as https://plc.directory: adds eventMetadata with document, PDS, handle and age of the account
        #[argh(option, arg_name = "url")]
        plc_host: Option<String>,
        /// address of an AppView, such as https://public.api.bsky.app: adds the profile to eventMetadata, and verifies the handle
        #[argh(option, arg_name = "url")]
        api_host: Option<String>,
        /// how long events wait for a look-up; then they are delivered without it, 0s..1m (default 3s)
        #[argh(option, arg_name = "time")]
        metadata_timeout: Option<String>,
        /// wait for the directory and the AppView, however long it takes
        #[argh(switch)]
        metadata_required: bool,
        /// bytes of all caches together, such as 64MiB; without a unit: accounts, of 4 KiB each (default 256MiB)
        #[argh(option, arg_name = "size")]
        metadata_cache: Option<String>,
        /// how long a document is cached, and a profile at most an hour (default 24h)
        #[argh(option, arg_name = "time")]
        metadata_ttl: Option<String>,
        /// keep the caches in the state directory from a stop to the next start
        #[argh(switch)]
        metadata_snapshot: bool,
        /// requests at once, to the PLC directory and to the AppView each, 1..1000 (default 256)
        #[argh(option, arg_name = "n")]
        lookup_concurrency: Option<String>,
        /// requests a second, to the PLC directory and to the AppView each (default 5000)
        #[argh(option, arg_name = "n")]
        lookup_rate: Option<String>,
        /// ask did:web hosts with private addresses as well, and localhost over plain HTTP: for development networks
        #[argh(switch)]
        allow_private_did_web: bool,
        /// contact address that hosts see in the User-Agent: an e-mail address or a URL
        #[argh(option, arg_name = "contact")]
        contact: Option<String>,
    }

    firehose {
        /// Reads the firehose of a relay, or of a PDS.
        #[argh(subcommand, name = "relay")]
        Relay {
            /// relay to read, ws:// or wss://; may repeat, each with a connection, cursor and order of its own (default wss://bsky.network)
            #[argh(option, arg_name = "url")]
            pub relay_host: Vec<String>,
            /// where the first start begins: live, oldest or a seq; ignored once a position is saved (default live)
            #[argh(option, arg_name = "start")]
            pub cursor: Option<String>,
            /// connect again when a host that gave over one event a second gives none for so long, 1s..24h, or off (default 90s)
            #[argh(option, arg_name = "time")]
            pub silence: Option<String>,
        }

        /// Reads a Tap: whole repositories, then live.
        #[argh(subcommand, name = "tap")]
        Tap {
            /// address of the Tap to read, ws:// or wss:// (default ws://localhost:2480)
            #[argh(option, arg_name = "url")]
            pub tap_host: Option<String>,
            /// connections that share Tap's queue, 1..32 (default 1)
            #[argh(option, arg_name = "n")]
            pub tap_connections: Option<String>,
            /// the same as --workers
            #[argh(option, arg_name = "n")]
            pub tap_workers: Option<String>,
            /// send no acknowledgements: for a Tap that runs without
            #[argh(switch)]
            pub disable_acks: bool,
            /// password of Tap's admin; better in the environment or in a file
            #[argh(option, arg_name = "password")]
            pub tap_password: Option<String>,
            /// file that holds Tap's admin password
            #[argh(option, arg_name = "file")]
            pub tap_password_file: Option<String>,
        }

        /// Reads recordings of a firehose, as the command record writes them, and ends with them.
        #[argh(subcommand, name = "replay")]
        Replay {
            /// recording to read, packed by zstd or not; may repeat, in the order of their frames; - is standard input (required)
            #[argh(option, arg_name = "file")]
            pub file: Vec<String>,
            /// frames a second (default: as many as the output takes)
            #[argh(option, arg_name = "n")]
            pub rate: Option<String>,
            /// first seq that is wanted; ignored once a position is saved (default: the first)
            #[argh(option, arg_name = "seq")]
            pub from_seq: Option<String>,
            /// last seq that is wanted (default: the last)
            #[argh(option, arg_name = "seq")]
            pub to_seq: Option<String>,
        }
    }

    others {
        /// Reads the moderation events of an Ozone.
        #[argh(subcommand, name = "ozone-events")]
        Ozone {
            /// the account's PDS, https://; Ozone is asked through it (required)
            #[argh(option, arg_name = "url")]
            pub pds_host: Option<String>,
            /// handle, DID or e-mail of an account in Ozone's team (required)
            #[argh(option, arg_name = "name")]
            pub identifier: Option<String>,
            /// its password, or an app password; better in the environment or in a file (required)
            #[argh(option, arg_name = "password")]
            pub password: Option<String>,
            /// file that holds the password
            #[argh(option, arg_name = "file")]
            pub password_file: Option<String>,
            /// DID of the labeler whose Ozone it is (required)
            #[argh(option, arg_name = "did")]
            pub labeler_did: Option<String>,
            /// where the first start begins, a time such as 2026-01-01T00:00:00Z; ignored once a position is saved (default: the first event)
            #[argh(option, arg_name = "time")]
            pub ozone_since: Option<String>,
            /// how far before the newest event each round begins, since events commit late, 0s..1h (default 30s)
            #[argh(option, arg_name = "time")]
            pub look_back: Option<String>,
            /// between two rounds, 100ms..1h (default 1s)
            #[argh(option, arg_name = "time")]
            pub poll_interval: Option<String>,
            /// contact address that the host sees in the User-Agent: an e-mail address or a URL
            #[argh(option, arg_name = "contact")]
            pub contact: Option<String>,
        }
    }
}

/// Asks a running atkafka whether it lives: exit code 0 or 1. For containers.
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(subcommand, name = "healthcheck")]
pub struct Healthcheck {
    /// ask whether it is connected and delivers (/readyz), not only whether it lives (/healthz)
    #[argh(switch)]
    pub ready: bool,
    /// where it listens (default 0.0.0.0:6009)
    #[argh(option, arg_name = "ip:port")]
    pub metrics_listen_address: Option<String>,
}

/// Saves frames of a live firehose to a file, for tests and benches.
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(subcommand, name = "record")]
pub struct Record {
    /// relay to read, ws:// or wss:// (default wss://bsky.network)
    #[argh(option, arg_name = "url")]
    pub relay_host: Option<String>,
    /// file to write; zstd-compressed when it ends in .zst (required)
    #[argh(option, arg_name = "file")]
    pub output: Option<String>,
    /// frames to save (default 10000)
    #[argh(option, arg_name = "n")]
    pub frames: Option<String>,
    /// go on behind the last frame of the file, if it is there
    #[argh(switch)]
    pub append: bool,
    /// replace the file, if it is there
    #[argh(switch)]
    pub force: bool,
    /// where to begin: live, oldest or a seq (default live)
    #[argh(option, arg_name = "start")]
    pub cursor: Option<String>,
    /// certificates to trust instead of the system's, for HTTPS and wss://, a PEM file
    #[argh(option, arg_name = "file")]
    pub ca_file: Option<String>,
    /// contact address that the host sees in the User-Agent: an e-mail address or a URL
    #[argh(option, arg_name = "contact")]
    pub contact: Option<String>,
    /// error, warn, info or debug (default info)
    #[argh(option, arg_name = "level")]
    pub log_level: Option<String>,
    /// text or json (default text)
    #[argh(option, arg_name = "format")]
    pub log_format: Option<String>,
    /// the same as --log-level debug
    #[argh(switch)]
    pub debug: bool,
}

/// Prints what a shell needs to complete our command lines.
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(subcommand, name = "completions")]
pub struct Completions {
    #[argh(subcommand)]
    pub shell: Shell,
}

#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(subcommand)]
pub enum Shell {
    Bash(Bash),
    Zsh(Zsh),
    Fish(Fish),
}

/// Prints the completions for bash.
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(subcommand, name = "bash")]
pub struct Bash {}

/// Prints the completions for zsh.
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(subcommand, name = "zsh")]
pub struct Zsh {}

/// Prints the completions for fish.
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(subcommand, name = "fish")]
pub struct Fish {}

/// Prints the manual page.
#[derive(FromArgs, ArgsInfo, Debug)]
#[argh(subcommand, name = "man")]
pub struct Man {}

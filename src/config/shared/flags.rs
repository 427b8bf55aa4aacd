//! The flags that several commands have, declared here once, and the macro that puts them behind a command's own ones. All
//! values are texts, as they were typed; the other files of this folder give them their meaning.

/// The flags that say where positions are kept, and how to speak to the brokers. Calls the macro `$then` with `$rest` and the
/// fields behind it.
macro_rules! storing_flags {
    ($then:ident! $($rest:tt)*) => {
        $then! {
            $($rest)* {
                /// topic that the events go to
                #[argh(option, arg_name = "topic")]
                output_topic: Option<String>,
                /// where cursors are kept (default $STATE_DIRECTORY, else ./atkafka-state; none when events go to standard output)
                #[argh(option, arg_name = "dir")]
                state_dir: Option<String>,
                /// at-least-once (default), or exactly-once: events and positions in Kafka transactions, for consumers that read committed
                #[argh(option, arg_name = "how")]
                delivery: Option<String>,
                /// file (default), or kafka: cursors are kept in a topic, and a second instance ends the first
                #[argh(option, arg_name = "store")]
                cursor_store: Option<String>,
                /// topic of the cursors with --cursor-store kafka, compacted (default: the output topic with .cursor behind it)
                #[argh(option, arg_name = "topic")]
                cursor_topic: Option<String>,
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
            }
        }
    };
}

/// The flags that choose among the saved positions, given on as above.
macro_rules! choosing_flags {
    ($then:ident! $($rest:tt)*) => {
        $then! {
            $($rest)* {
                /// the position, as cursor show calls it: SOURCE/HOST, such as relay/bsky.network
                #[argh(option, arg_name = "name")]
                position: Option<String>,
                /// instance that has the position (default: the one without a name)
                #[argh(option, arg_name = "name")]
                instance_id: Option<String>,
                /// brokers of Kafka, host:port, for positions that are kept there
                #[argh(option, arg_name = "host:port")]
                bootstrap_servers: Vec<String>,
            }
        }
    };
}

/// The flags of every command that writes events, those above among them, given on as above.
macro_rules! writing_flags {
    (@with [$then:ident! $($rest:tt)*] { $($storing:tt)* }) => {
        $then! {
            $($rest)* {
                /// brokers of Kafka, host:port; without any, events go to standard output, one a line
                #[argh(option, arg_name = "host:port")]
                bootstrap_servers: Vec<String>,
                $($storing)*
                /// where events go that match, in place of --output-topic: app.bsky.feed.post=posts, app.bsky.*=TOPIC, kind:identity=TOPIC (also kind:account, kind:sync, kind:info, kind:ozone); may repeat, the first match counts
                #[argh(option, arg_name = "pattern=topic")]
                route: Vec<String>,
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

                /// how long a transaction of exactly-once stays open, 10ms..10s (default 1s)
                #[argh(option, arg_name = "time")]
                commit_interval: Option<String>,
                /// whose cursors these are in the cursor topic, and the name of its transactions: an instance of the same name ends this one (default: from the source's hosts and the output topic)
                #[argh(option, arg_name = "name")]
                instance_id: Option<String>,
                /// wait while another instance of the same name works, and take over when it stops or is not heard of; needs --delivery exactly-once
                #[argh(switch)]
                standby: bool,
                /// with --standby: how long the instance that works may be silent before another one takes over, 6s..5m (default 10s)
                #[argh(option, arg_name = "time")]
                takeover_after: Option<String>,
                /// threads that decode (default: the cores less one for the reader and one for the Kafka client, at least 1)
                #[argh(option, arg_name = "n")]
                workers: Option<String>,
                /// bytes of frames in flight, such as 64MiB or 1GiB (default 128MiB)
                #[argh(option, arg_name = "size")]
                memory_limit: Option<String>,

                /// librdkafka (default), or kafka: a pure-Rust client for brokers up to 3.9, at least once, without TLS, SASL, headers and times
                #[argh(option, arg_name = "client")]
                kafka_client: Option<String>,
                /// none, gzip, snappy, lz4 or zstd (default lz4; none with --osprey-compatible and with --kafka-client kafka)
                #[argh(option, arg_name = "codec")]
                compression: Option<String>,
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
        }
    };
    ($then:ident! $($rest:tt)*) => {
        storing_flags! { writing_flags! @with [$then! $($rest)*] }
    };
}

/// The flags about the accounts behind the events of the firehose, given on as above.
macro_rules! enriching_flags {
    ($then:ident! $($rest:tt)*) => {
        $then! {
            $($rest)* {
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
        }
    };
}

/// Declares the struct of one group of shared flags.
macro_rules! shared_flags {
    ($(#[$doc:meta])* $name:ident { $($(#[$meta:meta])* $field:ident: $outer:ident $(<$inner:ident>)?,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Default)]
        pub struct $name {
            $(pub $field: $outer $(<$inner>)?,)*
        }
    };
}

/// Makes what is known of one group the flags of a command that writes events, without the others.
macro_rules! as_writing {
    ({ $($(#[$meta:meta])* $field:ident: $outer:ident $(<$inner:ident>)?,)* }) => {
        impl From<Storing> for Writing {
            fn from(of: Storing) -> Writing {
                Writing { $($field: of.$field,)* ..Writing::default() }
            }
        }
    };
}

/// Declares `Flags` of a command: documentation and argh's attributes, the groups of shared flags in parentheses, then its own
/// flags. A method with the name of each group gives the flags of that group.
macro_rules! command_flags {
    ($(#[$meta:meta])* (writing) $own:tt) => {
        writing_flags! { command_flags! @declare [$(#[$meta])*] [writing Writing] $own }
    };
    ($(#[$meta:meta])* (writing, enriching) $own:tt) => {
        writing_flags! { enriching_flags! command_flags! @declare [$(#[$meta])*] [writing Writing, enriching Enriching] $own }
    };
    ($(#[$meta:meta])* (storing, choosing) $own:tt) => {
        storing_flags! { choosing_flags! command_flags! @declare [$(#[$meta])*] [storing Storing, choosing Choosing] $own }
    };
    (@declare [$(#[$meta:meta])*] [$($method:ident $name:ident),*] { $($own:tt)* } $($shared:tt)*) => {
        command_flags!(@struct [$(#[$meta])*] { $($own)* } $($shared)*);
        $(command_flags!(@part $method $name $shared);)*
    };
    (@struct [$(#[$meta:meta])*] { $($own:tt)* } $({ $($(#[$shared:meta])* $field:ident: $outer:ident $(<$inner:ident>)?,)* })*) => {
        #[derive(argh::FromArgs, argh::ArgsInfo, Debug)]
        $(#[$meta])*
        pub struct Flags {
            $($own)*
            $($($(#[$shared])* pub $field: $outer $(<$inner>)?,)*)*
        }
    };
    (@part $method:ident $name:ident { $($(#[$meta:meta])* $field:ident: $outer:ident $(<$inner:ident>)?,)* }) => {
        impl Flags {
            pub(in crate::config) fn $method(&self) -> $crate::config::shared::flags::$name {
                $crate::config::shared::flags::$name { $($field: self.$field.clone(),)* }
            }
        }
    };
}

storing_flags! { shared_flags! /** The flags that say where positions are kept, and how to speak to the brokers. */ Storing }
choosing_flags! { shared_flags! /** The flags that choose among the saved positions. */ Choosing }
writing_flags! { shared_flags! /** The flags that every command has which writes events. */ Writing }
enriching_flags! { shared_flags! /** The flags about the accounts behind the events of the firehose. */ Enriching }
storing_flags! { as_writing! }

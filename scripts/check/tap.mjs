// usage: node tap.mjs OUT KAFKA_PORT TAP
// A network of accounts on a real PDS with its PLC, a real Tap of it, and atkafka behind that; kills both while the accounts
// write, and compares the topic with the repositories at the end.
import { createServer } from 'node:http'
import { createServer as createTls } from 'node:https'
import fs from 'node:fs'
import { isDeepStrictEqual } from 'node:util'
import { Bridge, Program, call, each, freePort, judge, paced, say, sleep, until } from './processes.mjs'
import { TestNetworkNoAppView } from '@atproto/dev-env'
import { lexToJson } from '@atproto/lexicon'
import { MemoryBlockstore, Repo, readCarWithRoot } from '@atproto/repo'
import Sqlite from 'better-sqlite3'

const [out, kafkaPort, tapProgram] = process.argv.slice(2)
const number = (name, or) => Number(process.env[`TAP_CHECK_${name}`] || or)
const ACCOUNTS = number('ACCOUNTS', 300)
const SECONDS = number('SECONDS', 60)
const RATE = number('RATE', 40)
/** Accounts that are made while the others write. */
const LATE = Math.floor(ACCOUNTS / 5)

// --- the network ----------------------------------------------------------------------------

const [plcPort, pdsPort, tapPort] = [await freePort(), await freePort(), await freePort()]
const network = await TestNetworkNoAppView.create({ plc: { port: plcPort }, pds: { port: pdsPort, hostname: 'localhost' } })
const pds = `http://localhost:${pdsPort}`
say(`PDS and PLC serve: ${pds}, ${network.plc.url}`)

/** Tap asks for handles through this proxy: whatever the host's name, the PDS answers. */
const handles = createTls(
  { key: fs.readFileSync(`${out}/handles.key`), cert: fs.readFileSync(`${out}/handles.pem`) },
  async (request, response) => {
    const query = `handle=${encodeURIComponent(request.headers.host)}`
    const answer = await call(pds, `com.atproto.identity.resolveHandle?${query}`).catch(() => undefined)
    response.writeHead(answer ? 200 : 404).end(answer?.did)
  },
)
const proxy = createServer().on('connect', (_, socket) => {
  socket.write('HTTP/1.1 200 OK\r\n\r\n')
  handles.emit('connection', socket)
})
await new Promise((done) => proxy.listen(0, '127.0.0.1', done))

const accounts = []
const posts = []
const done = { commits: 0, ops: 0, create: 0, update: 0, delete: 0, refused: 0, handles: 0, deactivated: 0, activated: 0 }
let seed = 20260801
/** A number below `n`, the same ones in each run. */
const random = (n) => {
  seed = (Math.imul(seed, 1103515245) + 12345) >>> 0
  return Math.floor((seed / 2 ** 32) * n)
}
const pick = (list) => list[random(list.length)]
const write = (account, method, body) =>
  call(pds, `com.atproto.${method}`, { body: { repo: account.did, ...body }, token: account.token })

const POST = 'app.bsky.feed.post'
const LIKE = 'app.bsky.feed.like'
const FOLLOW = 'app.bsky.graph.follow'
const PROFILE = 'app.bsky.actor.profile'
const NOTE = 'com.example.note'
let serial = 0
const now = () => new Date().toISOString()
const record = {
  [POST]: () => ({ $type: POST, text: `post ${serial} é \u{1F41D} "<&>\u2028`, langs: ['en'], createdAt: now() }),
  [LIKE]: () => ({ $type: LIKE, subject: pick(posts), createdAt: now() }),
  [FOLLOW]: () => ({ $type: FOLLOW, subject: pick(accounts)?.did ?? 'did:plc:nobody', createdAt: now() }),
  [PROFILE]: () => ({ $type: PROFILE, displayName: `name ${serial}`, description: 'd'.repeat(random(200)) }),
  // Of no lexicon that the PDS knows.
  [NOTE]: () => ({
    $type: NOTE,
    serial,
    edge: [9007199254740991, -9007199254740991, 0],
    bytes: { $bytes: Buffer.from(`bytes ${serial}`).toString('base64').replace(/=+$/, '') },
    link: { $link: posts[0]?.cid ?? 'bafyreihyrpefhacm6kkp4ql6j6udakdit7g3dmkzfriqfykhjw6cad5lrm' },
    nested: { empty: {}, none: null, list: [[], [true, false, 'ü']] },
  }),
}
const fresh = (collection) => (serial++, { collection, value: record[collection]() })
const rkeyOf = (uri) => uri.split('/').at(-1)

/** One commit of the account. It knows what it has, so that most of what it asks for is possible. */
async function commit(account, kind) {
  const own = account.records
  const known = (collection) => own.filter((r) => r.collection === collection)
  const keep = (collection, { uri, cid }) => {
    own.push({ collection, rkey: rkeyOf(uri) })
    if (collection === POST && cid) posts.push({ uri, cid })
  }
  const forget = (r) => own.splice(own.indexOf(r), 1)
  if (kind === 'several') {
    const writes = []
    const $type = (what) => `com.atproto.repo.applyWrites#${what}`
    for (let i = 3 + random(20); i > 0; i--) {
      const { collection, value } = fresh(pick([POST, LIKE, FOLLOW, NOTE]))
      writes.push({ $type: $type('create'), collection, rkey: `several-${serial}`, value })
    }
    const [updated, ...rest] = known(NOTE)
    if (updated) writes.push({ $type: $type('update'), ...updated, value: fresh(NOTE).value })
    const [gone] = [...rest, ...known(LIKE)]
    if (gone) writes.push({ $type: $type('delete'), ...gone })
    await write(account, 'repo.applyWrites', { writes, validate: false })
    writes.forEach((w) => {
      const what = w.$type.split('#')[1]
      done[what]++
      if (what === 'create') own.push({ collection: w.collection, rkey: w.rkey })
    })
    if (gone) forget(gone)
    done.ops += writes.length
  } else if (kind === 'delete' && own.length) {
    const gone = pick(own)
    await write(account, 'repo.deleteRecord', gone)
    forget(gone)
    done.delete++
    done.ops++
  } else if (kind === PROFILE || (kind === 'update' && known(NOTE).length)) {
    const { collection, value } = fresh(kind === PROFILE ? PROFILE : NOTE)
    const rkey = kind === PROFILE ? 'self' : pick(known(NOTE)).rkey
    const isNew = !own.some((r) => r.collection === collection && r.rkey === rkey)
    const put = await write(account, 'repo.putRecord', { collection, rkey, record: value, validate: false })
    if (isNew) keep(collection, put)
    done[isNew ? 'create' : 'update']++
    done.ops++
  } else {
    const { collection, value } = fresh(kind in record ? kind : NOTE)
    keep(collection, await write(account, 'repo.createRecord', { collection, record: value, validate: false }))
    done.create++
    done.ops++
  }
  done.commits++
}

const KINDS = [POST, POST, POST, POST, LIKE, LIKE, FOLLOW, NOTE, 'update', 'update', PROFILE, 'delete', 'delete', 'several']

async function createAccount(i) {
  const body = { handle: `user${i}.test`, email: `user${i}@example.test`, password: `password-${i}` }
  const { did, handle, accessJwt: token } = await call(pds, 'com.atproto.server.createAccount', { body })
  const account = { did, handle, token, records: [], busy: false, active: true }
  for (const kind of [POST, NOTE, 'several']) await commit(account, kind)
  accounts.push(account)
}

// --- the run --------------------------------------------------------------------------------

await each(ACCOUNTS - LATE, 4, createAccount)
say(`${accounts.length} accounts with ${done.ops} records`)

const tapUrl = `http://127.0.0.1:${tapPort}`
const startTap = async () => {
  const args = ['run', '--bind', `127.0.0.1:${tapPort}`, '--db-url', `sqlite://${out}/tap.db`, '--plc-url', network.plc.url]
  // 60 s by default: so long would the accounts of a killed atkafka stand still.
  args.push('--relay-url', pds, '--full-network', '--retry-timeout', '10s')
  const env = { HTTPS_PROXY: `http://127.0.0.1:${proxy.address().port}`, SSL_CERT_FILE: `${out}/handles.pem` }
  const program = new Program(tapProgram, args, `${out}/tap.log`, { env })
  await until('Tap', 30, async () => (await fetch(`${tapUrl}/health`)).ok)
  return program
}
let tap = await startTap()
const bridge = new Bridge(['firehose', 'tap', '--tap-host', `ws://127.0.0.1:${tapPort}`, '--topic-partitions', '4'], {
  topic: 'tap',
  port: kafkaPort,
  log: `${out}/atkafka.log`,
})
await bridge.start()

const at = async (second, what, act) => {
  await sleep((second / 60) * SECONDS * 1000)
  say(what)
  await act()
}
const killed = { atkafka: 0, tap: 0, terminated: 0 }
const killBridge = async () => {
  await bridge.kill()
  killed.atkafka++
  await sleep(1500)
  await bridge.start()
}
const endTap = async (signal) => {
  const how = await tap.end(signal)
  killed[signal === 'SIGTERM' ? 'terminated' : 'tap']++
  await sleep(1500)
  tap = await startTap()
  return how
}
/** Alone with the account: its writes and this do not mix. */
const alone = async (account, act) => {
  await until('an idle account', 10, () => !account.busy)
  account.busy = true
  await act().finally(() => (account.busy = false))
}
const rename = (account) =>
  alone(account, async () => {
    account.handle = `renamed-${account.handle}`
    const body = { handle: account.handle }
    await call(pds, 'com.atproto.identity.updateHandle', { body, token: account.token })
    done.handles++
  })
const setActive = (account, active) =>
  alone(account, async () => {
    const method = `com.atproto.server.${active ? 'activate' : 'deactivate'}Account`
    await fetch(`${pds}/xrpc/${method}`, {
      method: 'POST',
      headers: { authorization: `Bearer ${account.token}`, ...(active ? {} : { 'content-type': 'application/json' }) },
      body: active ? undefined : '{}',
    }).then(async (answer) => {
      if (!answer.ok) throw new Error(`${method}: ${answer.status} ${await answer.text()}`)
    })
    account.active = active
    done[active ? 'activated' : 'deactivated']++
  })
const [first, second, third, fourth, ...others] = accounts
const traffic = paced(SECONDS * RATE, 16, RATE, async () => {
  const free = accounts.filter((a) => !a.busy && a.active)
  const account = pick(free)
  if (!account) return
  account.busy = true
  await commit(account, pick(KINDS))
    .catch((e) => {
      done.refused++
      if (done.refused < 4) say(e.message)
    })
    .finally(() => (account.busy = false))
})
say(`${SECONDS} s of traffic, ${RATE} commits a second`)
await Promise.all([
  traffic,
  paced(LATE, 2, LATE / (SECONDS * 0.8), (i) => createAccount(ACCOUNTS - LATE + i)),
  at(10, 'kill -9 atkafka', killBridge),
  at(18, 'SIGTERM to Tap', () => endTap('SIGTERM')),
  at(28, 'kill -9 atkafka', killBridge),
  at(38, 'kill -9 Tap', () => endTap('SIGKILL')),
  at(48, 'kill -9 atkafka', killBridge),
  at(20, 'handles change', () => each(10, 2, (i) => rename(others[i]))),
  at(25, 'four accounts are deactivated', () => each(4, 2, (i) => setActive([first, second, third, fourth][i], false))),
  at(40, 'two of them are active again', () => each(2, 2, (i) => setActive([first, second][i], true))),
  at(52, 'handles change', () => each(5, 2, (i) => rename(others[10 + i]))),
])
// A killed Tap has saved a cursor that is ahead of what it stored. It notices at the next commit of an account.
await each(accounts.length, 8, (i) => accounts[i].active && commit(accounts[i], PROFILE))
say('the traffic is over, with a last commit of each account')

// --- the end: Tap has given everything, and atkafka has acknowledged it ------------------------

const stats = async (what) => Object.values(await (await fetch(`${tapUrl}/stats/${what}`)).json())[0]
const tapDb = new Sqlite(`${out}/tap.db`, { readonly: true })
/** Accounts of which Tap has not the newest commit; its cursor may stand behind for ever, since its workers race for it. */
async function behind() {
  const tapRepos = new Map(tapDb.prepare('select did, state, rev, error_msg error from repos').all().map((r) => [r.did, r]))
  const list = []
  for (const { did } of accounts) {
    const root = await network.pds.ctx.actorStore.read(did, (store) => store.repo.storage.getRootDetailed())
    const has = tapRepos.get(did)
    if (has?.state !== 'active' || has.rev !== root.rev) list.push({ did, rev: root.rev, has })
  }
  return list
}
await until('the newest commit of each account in Tap', 240, async () => (await behind()).length === 0).catch(async (e) =>
  say(e.message, (await behind()).slice(0, 5)),
)
await until("Tap's empty outbox", 240, async () => (await stats('outbox-buffer')) === 0)
const outbox = await stats('outbox-buffer')
const inFlight = (await bridge.metric('atkafka_tap_event_buffer_size')) + (await bridge.metric('atkafka_tap_ack_event_buffer_size'))
say("Tap's outbox is empty")
await bridge.stop()

// --- the comparison ---------------------------------------------------------------------------

/** Every record of a repository, from the PDS. */
async function recordsOf(did) {
  // By an administrator: the repositories of deactivated accounts, too.
  const authorization = network.pds.adminAuth()
  const answer = await fetch(`${pds}/xrpc/com.atproto.sync.getRepo?did=${did}`, { headers: { authorization } })
  if (!answer.ok) throw new Error(`getRepo ${did}: ${answer.status} ${await answer.text()}`)
  const { root, blocks } = await readCarWithRoot(new Uint8Array(await answer.arrayBuffer()))
  const repo = await Repo.load(new MemoryBlockstore(blocks), root)
  const records = []
  for await (const r of repo.walkRecords()) records.push(r)
  return records
}

const events = await bridge.arrived()
fs.writeFileSync(`${out}/topic.jsonl`, events.map(({ event }) => `${JSON.stringify(event)}\n`).join(''))
const state = new Map()
const told = new Map()
const newest = new Map()
const stood = new Set()
const seen = { records: 0, live: 0, identity: 0, account: 0, repeats: 0, replayed: 0, backwards: 0, wrongKey: 0 }
for (const { key, event } of events) {
  const { did, rev, operation, identity, account, live } = event
  if (key !== did) seen.wrongKey++
  if (!operation) {
    seen[identity ? 'identity' : 'account']++
    told.set(did, { ...told.get(did), ...(identity ? { handle: identity.handle, status: 'active' } : { status: account.status }) })
    continue
  }
  seen.records++
  if (live) seen.live++
  // In the order of the topic, repeats and all.
  if (operation.action === 'delete') state.delete(operation.uri)
  else state.set(operation.uri, operation)
  // A repeat stood before with the same rev, path, action and CID: Tap sent it again.
  const name = [did, rev, operation.path, operation.action, operation.cid].join(' ')
  if (stood.has(name)) {
    seen.repeats++
    continue
  }
  stood.add(name)
  // Without repeats, the revs of an account never fall: of its live records, and of those that Tap fetched. A live one may
  // be older than the fetched ones before it, since Tap replays the first commits of an account behind its first fetch.
  const [own, other] = [`${did} ${live}`, `${did} ${!live}`]
  if (rev < (newest.get(own) ?? '')) {
    seen.backwards++
    say('rev falls', did, newest.get(own), rev, operation.path, operation.action, live)
  } else newest.set(own, rev)
  if (live && rev < (newest.get(other) ?? '')) seen.replayed++
}

// Tap keeps a table of what it has put into its outbox. Where that is not as the repositories, the fault is Tap's own.
const tapTable = new Map()
for (const { did, collection, rkey, cid } of tapDb.prepare('select did, collection, rkey, cid from repo_records').all())
  tapTable.set(`at://${did}/${collection}/${rkey}`, cid)
const found = { lost: [], version: [], record: [], stale: [], tapStale: [], tapOther: [] }
const uris = new Set()
await each(accounts.length, 4, async (i) => {
  const { did } = accounts[i]
  for (const { collection, rkey, cid, record } of await recordsOf(did)) {
    const uri = `at://${did}/${collection}/${rkey}`
    uris.add(uri)
    const have = state.get(uri)
    if (!have) found.lost.push(uri)
    else if (have.cid !== cid.toString()) found.version.push(uri)
    else if (!isDeepStrictEqual(have.record, lexToJson(record))) found.record.push(uri)
    if (tapTable.get(uri) !== cid.toString()) found.tapOther.push(uri)
  }
})
for (const uri of state.keys()) if (!uris.has(uri)) found[tapTable.has(uri) ? 'tapStale' : 'stale'].push(uri)
const wrongHandle = accounts.filter((a) => told.get(a.did)?.handle !== a.handle)
const wrongStatus = accounts.filter((a) => (told.get(a.did)?.status ?? 'active') !== (a.active ? 'active' : 'deactivated'))
for (const [what, list] of Object.entries(found)) if (list.length) say(what, list.slice(0, 5))
for (const a of [...wrongHandle, ...wrongStatus].slice(0, 5)) say('handle or status', a.did, a.handle, a.active, told.get(a.did))
const fetchedAgain = fs.readFileSync(`${out}/tap.log`, 'utf8').split('repo state desynchronized').length - 1

const none = (what, list) => [what, list.length, list.length === 0]
judge([
  ['accounts, of them made during the traffic', `${accounts.length}, ${LATE}`, accounts.length === ACCOUNTS],
  ['commits, operations (create, update, delete)', `${done.commits}, ${done.ops} (${done.create}, ${done.update}, ${done.delete})`],
  ['writes that the PDS refused', done.refused, done.refused < done.commits / 20],
  ['handles changed; accounts deactivated, activated again', `${done.handles}; ${done.deactivated}, ${done.activated}`, done.handles === 15],
  ['kill -9 of atkafka; SIGTERM and kill -9 of Tap', `${killed.atkafka}; ${killed.terminated}, ${killed.tap}`, killed.atkafka === 3],
  ['events in the topic: records (live), identity, account', `${seen.records} (${seen.live}), ${seen.identity}, ${seen.account}`],
  ['of the records: repeats; older than what Tap fetched', `${seen.repeats}; ${seen.replayed}`],
  ['records in the repositories', uris.size],
  none('LOST: in a repository and not in the topic', found.lost),
  none('STALE: another version in the topic', found.version),
  none('STALE: in the topic and no longer in its repository', found.stale),
  none('the version of the repository, and not its very values', found.record),
  ['ORDER: records with an earlier rev than one before them', seen.backwards, seen.backwards === 0],
  ['keys that are not the account', seen.wrongKey, seen.wrongKey === 0],
  ['accounts whose last handle, status in the topic is wrong', `${wrongHandle.length}, ${wrongStatus.length}`, !wrongHandle.length && !wrongStatus.length],
  ["events in Tap's outbox, waiting in atkafka", `${outbox}, ${inFlight}`, outbox + inFlight === 0],
  ["Tap's own: repositories fetched again behind its kill", fetchedAgain],
  ["Tap's own: its table has another version, a deleted record", `${found.tapOther.length}, ${found.tapStale.length}`],
])

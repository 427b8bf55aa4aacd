// usage: node ozone.mjs OUT KAFKA_PORT DATABASE_FOLDER POSTGRES_BIN
// A real Ozone with its PDS, PLC and AppView, and atkafka behind it: emits events, kills, closes, expires and limits, and
// compares the topic with Ozone's own table.
import { execFileSync } from 'node:child_process'
import fs from 'node:fs'
import { Bridge, Program, call, each, freePort, judge, paced, say, sleep, until } from './processes.mjs'

const [out, kafkaPort, data, bin] = process.argv.slice(2)
const number = (name, or) => Number(process.env[`OZONE_CHECK_${name}`] || or)
const EVENTS = number('EVENTS', 2000)
const RATE = number('RATE', 60)
/** Events of one transaction. */
const TOGETHER = 400
/** After each trouble so many are emitted. */
const AFTER = 100

// --- the network ----------------------------------------------------------------------------

const user = process.getuid() === 0 ? { uid: idOf('-u'), gid: idOf('-g') } : {}
function idOf(flag) {
  return Number(execFileSync('id', [flag, 'postgres']))
}
if (user.uid) fs.chownSync(data, user.uid, user.gid)
const [postgresPort, redisPort, plcPort, pdsPort, bskyPort, ozonePort] = await Promise.all(Array.from({ length: 6 }, freePort))
execFileSync(`${bin}/initdb`, ['-D', `${data}/db`, '-A', 'trust', '-U', 'check'], { ...user, cwd: '/', stdio: 'pipe' })
const settings = ['listen_addresses=127.0.0.1', 'unix_socket_directories=', 'fsync=off', 'max_connections=200']
const postgresArgs = ['-D', `${data}/db`, '-p', `${postgresPort}`, ...settings.flatMap((s) => ['-c', s])]
new Program(`${bin}/postgres`, postgresArgs, `${out}/postgres.log`, { ...user, cwd: '/', lastSignal: 'SIGQUIT' })
const redisArgs = ['--bind', '127.0.0.1', '--port', `${redisPort}`, '--save', '', '--dir', out]
new Program('redis-server', redisArgs, `${out}/redis.log`)
await until('PostgreSQL', 30, () => fs.readFileSync(`${out}/postgres.log`, 'utf8').includes('ready to accept connections'))

process.env.DB_POSTGRES_URL = `postgresql://check@127.0.0.1:${postgresPort}/postgres`
process.env.REDIS_HOST = `127.0.0.1:${redisPort}`
process.env.DB_POSTGRES_SCHEMA = 'check'
// Only now: what it loads reads the environment.
const { TestNetwork, TestOzone } = await import('@atproto/dev-env')
// How Ozone was made, so that it can be closed and opened again on the same database.
let ozoneConfig
const { create } = TestOzone
TestOzone.create = (config) => create.call(TestOzone, (ozoneConfig = config))
const network = await TestNetwork.create({
  plc: { port: plcPort },
  pds: { port: pdsPort, hostname: 'localhost', rateLimitsEnabled: true },
  bsky: { port: bskyPort, publicUrl: `http://localhost:${bskyPort}` },
  ozone: { port: ozonePort },
})
const pds = `http://localhost:${pdsPort}`
const labeler = ozoneConfig.serverDid
const accountOf = (name) => {
  const body = { handle: `${name}.test`, email: `${name}@example.test`, password: `${name}-password` }
  return call(pds, 'com.atproto.server.createAccount', { body })
}
const moderator = await accountOf('moderator')
const users = []
for (const name of ['alice', 'bob', 'carol', 'dan']) users.push(await accountOf(name))
await network.ozone.addModeratorDid(moderator.did)
await network.processAll()
say(`PDS ${pds} and Ozone ${labeler} serve`)

// --- events ---------------------------------------------------------------------------------

const authorization = `Basic ${Buffer.from('admin:admin-pass').toString('base64')}`
const emit = (event, subject) =>
  call(`http://localhost:${ozonePort}`, 'tools.ozone.moderation.emitEvent', {
    headers: { authorization },
    body: { event: { ...event, $type: `tools.ozone.moderation.defs#${event.$type}` }, subject, createdBy: moderator.did },
  })
const account = (i) => ({ $type: 'com.atproto.admin.defs#repoRef', did: users[i % 3].did })
const cid = 'bafyreihyrpefhacm6kkp4ql6j6udakdit7g3dmkzfriqfykhjw6cad5lrm'
const post = (did, i) => ({ $type: 'com.atproto.repo.strongRef', uri: `at://${did}/app.bsky.feed.post/post-${i}`, cid })
const report = (i) => ({ $type: 'modEventReport', reportType: 'com.atproto.moderation.defs#reasonSpam', comment: `report ${i} é "q"` })
const KINDS = [
  (i) => emit({ $type: 'modEventComment', comment: `comment ${i} \u{1F41D}` }, account(i)),
  (i) => emit({ $type: 'modEventTag', add: [`tag${i % 13}`], remove: [], comment: `tag ${i}` }, account(i)),
  (i) => emit({ $type: 'modEventLabel', createLabelVals: ['spam'], negateLabelVals: [], comment: `label ${i}` }, post(users[i % 3].did, i)),
  (i) => emit({ $type: 'modEventEscalate', comment: `escalate ${i}` }, account(i)),
  (i) => emit(report(i), post(users[i % 3].did, i)),
  (i) => emit({ $type: 'modEventPriorityScore', score: i % 101, comment: `score ${i}` }, account(i)),
]
const failed = new Map()
const emitted = (promise) => promise.catch((e) => failed.set(e.message.slice(0, 100), 1 + (failed.get(e.message.slice(0, 100)) ?? 0)))
/** Of the last user, so that one acknowledgement answers them all, in one transaction. */
const reportLast = (i) => emit(report(i), post(users[3].did, i))
const some = (count) => paced(count, 8, RATE, (i) => emitted(KINDS[i % KINDS.length](i)))

const table = () => network.ozone.ctx.db.db.selectFrom('moderation_event').select(['id', 'createdAt', 'action']).execute()

/** Copies of some row whose transaction stays open for a while: visible long behind their createdAt. */
const lateTransaction = (ms) =>
  network.ozone.ctx.db.transaction(async (tx) => {
    const row = await tx.db.selectFrom('moderation_event').selectAll().limit(1).executeTakeFirstOrThrow()
    const { id, ...copy } = row
    const createdAt = new Date().toISOString()
    const copies = Array.from({ length: TOGETHER }, (_, i) => ({ ...copy, createdAt, comment: `late ${i}` }))
    await tx.db.insertInto('moderation_event').values(copies).execute()
    await sleep(ms)
  })

// --- the run --------------------------------------------------------------------------------

fs.writeFileSync(`${out}/password`, 'moderator-password\n')
const flags = ['--pds-host', pds, '--identifier', 'moderator.test', '--password-file', `${out}/password`, '--labeler-did', labeler]
const bridge = new Bridge(['ozone-events', ...flags, '--state-dir', `${out}/state`, '--topic-partitions', '4'], {
  topic: 'ozone',
  port: kafkaPort,
  log: `${out}/atkafka.log`,
})
await bridge.start()
const ids = async () => (await bridge.arrived()).map(({ event }) => event.id)
const requests = (method, status) => bridge.metric('atkafka_ozone_requests', `method="${method}",status="${status}"`)
const missingNow = async () => {
  const have = new Set(await ids())
  return (await table()).filter(({ id }) => !have.has(id)).length
}
const rows = []

/** What the broker had, and no saved position told of: what may repeat. */
let inFlight = 0
let kills = 0
const kill = async () => {
  await bridge.kill()
  kills++
  const [file] = fs.readdirSync(`${out}/state`).filter((name) => name.endsWith('.json'))
  const saved = file ? JSON.parse(fs.readFileSync(`${out}/state/${file}`, 'utf8')) : {}
  const known = new Set(saved.window?.map(([, id]) => id))
  const from = Math.min(...(saved.window ?? []).map(([ms]) => ms))
  const times = new Map((await table()).map(({ id, createdAt }) => [id, Date.parse(createdAt)]))
  const delivered = new Set(await ids())
  const unsaved = [...delivered].filter((id) => !known.has(id) && !(times.get(id) < from))
  inFlight += unsaved.length
  say(`killed: ${delivered.size} delivered, of them ${unsaved.length} behind the saved position`)
  await bridge.start()
}

say(`${EVENTS} events at ${RATE} a second`)
const began = Date.now()
/** Of the first events, which are reports of the last user's posts, and of all. */
const emittedSoFar = { reports: 0, all: 0 }
const traffic = paced(EVENTS, 16, RATE, async (i) => {
  await emitted(i < TOGETHER ? reportLast(i) : KINDS[i % KINDS.length](i))
  emittedSoFar.all++
  if (i < TOGETHER) emittedSoFar.reports++
})
const after = (share) => until('the events', 600, () => emittedSoFar.all >= share * EVENTS)
await Promise.all([
  traffic.then(() => say(`emitted, ${((EVENTS * 1000) / (Date.now() - began)).toFixed(0)} a second`)),
  after(0.3).then(async () => {
    await until('the reports', 60, () => emittedSoFar.reports >= TOGETHER)
    say(`one acknowledgement of ${TOGETHER} reports`)
    const subject = { $type: 'com.atproto.admin.defs#repoRef', did: users[3].did }
    await emit({ $type: 'modEventAcknowledge', comment: 'all', acknowledgeAccountSubjects: true }, subject)
  }),
  after(0.45).then(kill),
  after(0.75).then(async () => {
    say(`one transaction of ${TOGETHER} that stays open for 5 s, and kill -9 when they arrive`)
    await lateTransaction(5000)
    await sleep(500)
    await kill()
  }),
])
const settled = () => until('everything in the topic', 400, async () => (await missingNow()) === 0)
await settled()
const burst = await table()
rows.push(['kill -9; events in the table after the burst', `${kills}; ${burst.length}`, burst.length >= EVENTS + 2 * TOGETHER])
const together = burst.filter(({ action }) => action.endsWith('#modEventAcknowledge')).length
rows.push(["events of the acknowledgement's transaction", together, together >= TOGETHER])

const { pid } = bridge.program.child
const phase = async (what, act) => {
  say(what)
  const start = Date.now()
  await act()
  await some(AFTER)
  await settled()
  say(`  it goes on: nothing is missing, ${((Date.now() - start) / 1000).toFixed(0)} s`)
}
/** Until the count of these answers has risen. */
const rises = async (method, status, seconds, act) => {
  const before = await requests(method, status)
  await act()
  await until(`${method} ${status}`, seconds, async () => (await requests(method, status)) > before)
}

await phase('Ozone is closed for 60 s', async () => {
  await network.ozone.close()
  let notReady = 0
  for (const end = Date.now() + 60_000; Date.now() < end; await sleep(1000)) {
    const ready = await fetch(`http://127.0.0.1:${bridge.http}/readyz`)
    if (ready.status === 503) notReady++
  }
  network.ozone = await create.call(TestOzone, ozoneConfig)
  rows.push(['Ozone closed for 60 s: seconds of them not ready', notReady, notReady > 40])
})

// The clock of the PDS's tokens jumps ahead: its answers are its own.
let ahead = 0
const RealDate = Date
globalThis.Date = class extends RealDate {
  constructor(...args) {
    if (args.length || !ahead || !new Error().stack.includes('/jose/')) super(...args)
    else super(RealDate.now() + ahead)
  }
}
const HOURS = 3_600_000
await phase('the access token expires', async () => {
  const renewed = await requests('refreshSession', 200)
  await rises('queryEvents', 400, 30, () => (ahead = 3 * HOURS))
  await until('a new token', 60, async () => (await requests('refreshSession', 200)) > renewed)
  rows.push(['expired token: renewals, and logins so far', `${await requests('refreshSession', 200)}, ${await requests('createSession', 200)}`])
})
await phase('the access token expires, and the session is forgotten', async () => {
  await sleep(30_000) // logins are so far apart
  const db = network.pds.ctx.accountManager.db.db
  const logins = await requests('createSession', 200)
  await db.deleteFrom('refresh_token').execute()
  await rises('refreshSession', 400, 60, () => (ahead = 9 * HOURS))
  await until('another login', 60, async () => (await requests('createSession', 200)) > logins)
  rows.push(['refused refresh: logins so far', await requests('createSession', 200)])
})
ahead = 0
await phase('the rate limit of the PDS is used up', async () => {
  const limited = await requests('queryEvents', 429)
  let used = 0
  let reset
  await each(40, 8, async () => {
    for (let i = 0; i < 100 && !reset; i++) {
      const answer = await fetch(`${pds}/xrpc/com.atproto.server.describeServer`)
      await answer.text()
      used++
      if (answer.status === 429) reset = answer.headers.get('ratelimit-reset')
    }
  })
  const wait = reset - RealDate.now() / 1000
  await until('429', 30, async () => (await requests('queryEvents', 429)) > limited)
  say(`  ${used} requests; the PDS gives more in ${wait.toFixed(0)} s`)
  const before = await requests('queryEvents', 429)
  rows.push(['rate limit: seconds that the PDS refused', wait.toFixed(0), wait > 0])
  await sleep(Math.max(0, wait - 5) * 1000)
  const asked = (await requests('queryEvents', 429)) - before + 1
  rows.push(['refused requests of atkafka meanwhile', asked, asked < 10])
})
rows.push(['the same process from the kill to the end', pid === bridge.program.child.pid && bridge.program.child.exitCode === null])
await bridge.stop()

// --- the comparison ---------------------------------------------------------------------------

const truth = await table()
const arrived = await bridge.arrived()
const have = new Set(arrived.map(({ event }) => event.id))
const missing = truth.filter(({ id }) => !have.has(id))
const known = new Set(truth.map(({ id }) => id))
const subjectOf = ({ subject }) => subject.did ?? subject.uri.split('/')[2]
const perMs = new Map()
for (const { createdAt } of truth) perMs.set(createdAt, 1 + (perMs.get(createdAt) ?? 0))
if (failed.size) say('not emitted', Object.fromEntries(failed))
if (missing.length) say('missing', missing.slice(0, 10))
const repeats = arrived.length - have.size
judge([
  ['events refused by Ozone', [...failed.values()].reduce((a, b) => a + b, 0)],
  ...rows,
  ["events in Ozone's own table; at most in one millisecond", `${truth.length}; ${Math.max(...perMs.values())}`, truth.length >= EVENTS + 2 * TOGETHER + 4 * AFTER],
  ['MISSING in the topic', missing.length, missing.length === 0],
  ['in the topic, and not in the table', [...have].filter((id) => !known.has(id)).length, [...have].every((id) => known.has(id))],
  ['repeats, of delivered and not saved at the kills', `${repeats} of ${inFlight}`, repeats <= inFlight],
  ["keys that are not the subject's account", arrived.filter(({ key, event }) => key !== subjectOf(event)).length, arrived.every(({ key, event }) => key === subjectOf(event))],
])

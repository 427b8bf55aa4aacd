// The processes of a check, and what they say: started here, killed here, and none left behind.
import { execFile, spawn } from 'node:child_process'
import fs from 'node:fs'
import net from 'node:net'
import path from 'node:path'
import { promisify } from 'node:util'

/** The scripts start it in the project's folder. */
export const root = process.cwd()
export const sleep = (ms) => new Promise((done) => setTimeout(done, ms))
const began = Date.now()
export const say = (...what) => console.log(`${((Date.now() - began) / 1000).toFixed(1).padStart(6)} s `, ...what)

// The servers of the npm package listen on every address, with known passwords: here on the loopback only.
const { listen } = net.Server.prototype
net.Server.prototype.listen = function (port, ...rest) {
  if (typeof port !== 'number') return listen.call(this, port, ...rest)
  return listen.call(this, { port, host: '127.0.0.1' }, ...rest.filter((r) => typeof r === 'function'))
}

/** A port that is free now. */
export const freePort = () =>
  new Promise((done) => {
    const server = net.createServer().listen(0, '127.0.0.1', () => {
      const { port } = server.address()
      server.close(() => done(port))
    })
  })

/** Until `seen` gives something; what does not come in time is an error. */
export async function until(what, seconds, seen) {
  for (const end = Date.now() + seconds * 1000; ; await sleep(200)) {
    const value = await Promise.resolve()
      .then(seen)
      .catch(() => undefined)
    if (value) return value
    if (Date.now() > end) throw new Error(`${what}: not within ${seconds} s`)
  }
}

const running = new Set()
process.on('exit', () => running.forEach((child) => child.kill(child.lastSignal)))
for (const signal of ['SIGINT', 'SIGTERM']) process.on(signal, () => process.exit(1))

/** A program, with its output appended to a file. */
export class Program {
  constructor(command, args, log, { env = {}, lastSignal = 'SIGKILL', ...options } = {}) {
    const out = fs.openSync(log, 'a')
    this.log = log
    this.child = spawn(command, args, { stdio: ['ignore', out, out], env: { ...process.env, ...env }, ...options })
    this.child.lastSignal = lastSignal
    fs.closeSync(out)
    running.add(this.child)
    this.ended = new Promise((done) =>
      this.child.on('exit', (code, signal) => {
        running.delete(this.child)
        done(signal ?? code)
      }),
    )
    this.child.on('error', (e) => say(`${command}: ${e.message}`))
  }

  /** Sends the signal and waits for the end: the exit code, or the signal's name. */
  async end(signal) {
    this.child.kill(signal)
    const timer = setTimeout(() => this.child.kill('SIGKILL'), 30_000)
    const how = await this.ended
    clearTimeout(timer)
    return how
  }
}

/** atkafka into a topic, which is killed and started again as often as a check wants. */
export class Bridge {
  constructor(args, { topic, port, log }) {
    const broker = ['--bootstrap-servers', `127.0.0.1:${port}`, '--output-topic', topic]
    Object.assign(this, { args: [...args, ...broker], topic, port, log })
  }

  async start() {
    this.http = await freePort()
    const address = ['--metrics-listen-address', `127.0.0.1:${this.http}`]
    this.program = new Program(path.join(root, 'target/release/atkafka'), [...this.args, ...address], this.log)
  }

  /** The sum of a metric's lines, of those with this label text; undefined when it does not answer. */
  async metric(name, labels = '') {
    const answer = await fetch(`http://127.0.0.1:${this.http}/metrics`).catch(() => undefined)
    if (!answer) return undefined
    const lines = (await answer.text()).split('\n').filter((line) => line.match(`^${name}[ {]`) && line.includes(labels))
    return lines.reduce((sum, line) => sum + Number(line.split(' ').at(-1)), 0)
  }

  kill() {
    return this.program.end('SIGKILL')
  }

  /** In order: anything but 0 is an error. */
  async stop() {
    const how = await this.program.end('SIGTERM')
    if (how !== 0) throw new Error(`atkafka ended with ${how} at SIGTERM; see ${this.log}`)
  }

  logged(text) {
    return fs.readFileSync(this.log, 'utf8').split('\n').filter((line) => line.includes(text))
  }

  /** What stands in the topic: the values as JSON, each partition in its order. */
  async arrived() {
    const args = ['consume', '--topic', this.topic, '--from-beginning', '--timeout-ms', '4000', '--port', `${this.port}`]
    const script = path.join(root, 'scripts/kafka.sh')
    const { stdout } = await promisify(execFile)(script, args, { maxBuffer: 1 << 30 })
    const lines = stdout.split('\n').filter((line) => line)
    return lines.map((line) => ({ key: line.split('\t', 1)[0], event: JSON.parse(line.slice(line.indexOf('\t') + 1)) }))
  }
}

/** One call of an API: POST with a body, else GET with the parameters of its path. */
export async function call(base, nsid, { body, headers = {}, token } = {}) {
  const answer = await fetch(`${base}/xrpc/${nsid}`, {
    method: body ? 'POST' : 'GET',
    headers: {
      ...(body ? { 'content-type': 'application/json' } : {}),
      ...(token ? { authorization: `Bearer ${token}` } : {}),
      ...headers,
    },
    body: body && JSON.stringify(body),
  })
  const text = await answer.text()
  if (!answer.ok) throw Object.assign(new Error(`${nsid}: HTTP ${answer.status} ${text}`), { status: answer.status })
  return text ? JSON.parse(text) : {}
}

/** `make(0)`, `make(1)`, ... `make(count - 1)`, some at once. */
export async function each(count, atOnce, make) {
  let next = 0
  const worker = async () => {
    while (next < count) await make(next++)
  }
  await Promise.all(Array.from({ length: atOnce }, worker))
}

/** As `each`, with `perSecond` a second. */
export function paced(count, atOnce, perSecond, make) {
  const start = Date.now()
  return each(count, atOnce, async (i) => {
    await sleep(start + (i * 1000) / perSecond - Date.now())
    await make(i)
  })
}

/** Prints a table of what was demanded and seen, and ends the process by it. */
export function judge(rows) {
  let bad = 0
  for (const [what, seen, good = true] of rows) {
    if (!good) bad++
    console.log(`${good ? '  ' : '! '}${what.padEnd(58)} ${seen}`)
  }
  console.log(bad ? `FAILED: ${bad} of the above` : 'passed')
  process.exit(bad ? 1 : 0)
}

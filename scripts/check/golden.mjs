// What Bluesky's own consumer, npm's @atproto/sync, makes of the frames of fixtures/network.bin.zst: one line of JSON for
// each event on standard output. How to run it: fixtures/README.md.
import { Firehose, MemoryRunner } from '@atproto/sync'
import { lexToJson } from '@atproto/lexicon'

const [url, last] = process.argv.slice(2)
if (!url || !last) {
  console.error('usage: node golden.mjs ws://127.0.0.1:PORT LAST_SEQ >expected.jsonl')
  process.exit(2)
}
const lines = []
const firehose = new Firehose({
  service: url,
  runner: new MemoryRunner({ startCursor: 0, concurrency: 1 }),
  // The frames are of a network that is not there: nothing can be looked up about its accounts.
  unauthenticatedCommits: true,
  unauthenticatedHandles: true,
  // It takes no frame with an empty `since`, which relays do send: such a frame has no line.
  onError: (error) => console.error(error.cause?.message ?? error),
  handleEvent: (e) => {
    const line = { seq: e.seq, time: e.time, event: e.event, did: e.did }
    if (e.collection) Object.assign(line, { rev: e.rev, collection: e.collection, rkey: e.rkey })
    if (e.cid && e.collection) line.cid = e.cid.toString()
    if (e.record) line.record = lexToJson(e.record)
    if (e.event === 'identity' && e.handle !== undefined) line.handle = e.handle
    if (e.event === 'account') Object.assign(line, { active: e.active, status: e.status })
    lines.push(line)
    if (e.seq >= Number(last)) {
      // The other events of the last frame.
      setTimeout(() => {
        lines.sort((a, b) => a.seq - b.seq)
        process.stdout.write(lines.map((l) => JSON.stringify(l) + '\n').join(''), () => process.exit(0))
      }, 500)
    }
  },
})
firehose.start()

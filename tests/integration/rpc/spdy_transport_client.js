// A client by npm's spdy-transport: opens the streams named, sends its own stdin, prints what came as JSON.
//
//     node spdy_transport_client.js MODULES URL PROTOCOL STREAM...
//
// A STREAM is a JSON object of headers. What this process reads goes to the stream whose streamType is stdin or data.
'use strict'

const crypto = require('crypto')
const http = require('http')
const path = require('path')

const [modules, url, protocol, ...wanted] = process.argv.slice(2)
const transport = require(path.join(modules, 'node_modules', 'spdy-transport'))

function open (connection, headers) {
  const got = { headers, bytes: 0, digest: crypto.createHash('sha256'), text: '' }
  const request = { method: 'POST', host: 'here', path: '/', headers }
  return new Promise((resolve, reject) => {
    connection.request(request, (error, stream) => {
      if (error) return reject(error)
      got.ended = new Promise((resolve) => stream.on('end', resolve))
      stream.on('response', () => resolve(got))
      stream.on('data', (chunk) => {
        got.bytes += chunk.length
        got.digest.update(chunk)
        if (got.text.length < 4096) got.text += chunk.toString('latin1')
      })
      stream.on('error', reject)
      got.stream = stream
    })
  })
}

async function run (socket) {
  const connection = transport.connection.create(socket, { protocol: 'spdy', isServer: false })
  connection.on('error', () => {})
  connection.start(3.1)
  const streams = []
  for (const headers of wanted) streams.push(await open(connection, JSON.parse(headers)))
  const input = streams.find(({ headers }) => ['stdin', 'data'].includes(headers.streamType))
  if (input) process.stdin.pipe(input.stream)
  await Promise.all(streams.map((stream) => stream.ended))
  const found = {}
  for (const { headers, bytes, digest, text } of streams) {
    found[headers.streamType] = { bytes, digest: digest.digest('hex'), text }
  }
  process.stdout.write(JSON.stringify(found), () => process.exit(0))
}

const asked = http.request(url, {
  method: 'POST',
  headers: { Connection: 'Upgrade', Upgrade: 'SPDY/3.1', 'X-Stream-Protocol-Version': protocol }
})
asked.on('upgrade', (response, socket, head) => {
  if (head.length) socket.unshift(head)
  run(socket).catch((error) => {
    console.error(error)
    process.exit(1)
  })
})
asked.on('response', (response) => {
  console.error(`the server answers ${response.statusCode}`)
  process.exit(1)
})
asked.end()

import { createProxy } from './proxy.mjs'

const { PORT = '8080', HOST = '127.0.0.1' } = process.env
const server = createProxy(process.env).listen(Number(PORT), HOST, () => {
  console.log(`listening on http://${HOST}:${server.address().port}`)
})

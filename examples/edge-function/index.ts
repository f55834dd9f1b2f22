import { handler } from './handler.mjs'

Deno.serve((request) => handler(request, Deno.env.toObject()))

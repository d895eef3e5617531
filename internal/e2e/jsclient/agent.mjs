// A person at a matrix-js-sdk client, driven by a test: one JSON command a line on standard input, one JSON
// reply or event a line on standard output.
import readline from "node:readline";

// The SDK logs to the console; standard output belongs to the test.
for (const level of ["log", "info", "debug", "warn", "trace"]) {
    console[level] = (...args) => console.error(...args);
}
const sdk = await import("matrix-js-sdk");

const baseUrl = process.argv[2];
const emit = (message) => process.stdout.write(JSON.stringify(message) + "\n");
let client;

function watch(c) {
    c.on("Room.timeline", (event, room, toStartOfTimeline) => {
        if (toStartOfTimeline) return;
        emit({
            event: "timeline",
            room_id: room.roomId,
            event_id: event.getId(),
            type: event.getType(),
            sender: event.getSender(),
            content: event.getContent(),
            txn_id: event.getUnsigned().transaction_id ?? "",
        });
    });
    c.on("Room.myMembership", (room, membership) => emit({ event: "membership", room_id: room.roomId, membership }));
    c.on("RoomMember.typing", (event, member) =>
        emit({ event: "typing", room_id: member.roomId, user_id: member.userId, typing: member.typing }));
    c.on("Room.receipt", (event, room) => emit({ event: "receipt", room_id: room.roomId, content: event.getContent() }));
    c.on("Room.redaction", (event, room) =>
        emit({ event: "redaction", room_id: room.roomId, redacts: event.getAssociatedId() ?? event.event.redacts }));
}

const commands = {
    // The dummy flow as a client does it: ask, take the session, complete it.
    async register({ username, password }) {
        const anonymous = sdk.createClient({ baseUrl });
        let session;
        try {
            await anonymous.registerRequest({ username, password });
        } catch (error) {
            if (error.httpStatus !== 401) throw error;
            session = error.data.session;
        }
        const account = await anonymous.registerRequest({
            username,
            password,
            auth: { type: "m.login.dummy", session },
        });
        client = sdk.createClient({
            baseUrl,
            accessToken: account.access_token,
            userId: account.user_id,
            deviceId: account.device_id,
        });
        watch(client);
        const prepared = new Promise((resolve) => client.on("sync", (state) => state === "PREPARED" && resolve()));
        await client.startClient({ initialSyncLimit: 20 });
        await prepared;
        return { user_id: account.user_id };
    },
    createRoom: (options) => client.createRoom(options),
    invite: ({ room_id, user_id }) => client.invite(room_id, user_id),
    join: ({ room_id }) => client.joinRoom(room_id).then(() => ({})),
    send: ({ room_id, body }) => client.sendTextMessage(room_id, body),
    typing: ({ room_id, typing }) => client.sendTyping(room_id, typing, 20000),
    read: ({ room_id, event_id }) => client.sendReadReceipt(client.getRoom(room_id).findEventById(event_id)),
    redact: ({ room_id, event_id }) => client.redactEvent(room_id, event_id),
    async logout() {
        client.stopClient();
        await client.logout(true);
        return {};
    },
    async whoami() {
        return client.whoami();
    },
};

for await (const line of readline.createInterface({ input: process.stdin })) {
    const { id, command, args } = JSON.parse(line);
    Promise.resolve()
        .then(() => commands[command](args))
        .then((result) => emit({ id, result: result ?? {} }))
        .catch((error) => emit({ id, error: String(error), errcode: error.errcode ?? "" }));
}
process.exit(0);

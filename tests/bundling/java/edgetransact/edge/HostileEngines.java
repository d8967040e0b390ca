package edgetransact.edge;

import java.nio.file.Paths;
import java.util.Arrays;
import java.util.HashSet;
import java.util.Set;
import java.util.concurrent.CountDownLatch;

/** Engines whose functions hang or throw what they shouldn't; prints what the core makes of each. */
public final class HostileEngines {
    private HostileEngines() {}

    /** @param arguments {@code models.json} */
    public static void main(String[] arguments) throws Exception {
        Model model = Models.read(arguments[0]).list().get(0);
        Choice choice = Choice.byLibrary(model.library(Device.CPU), model, new Phone(() -> false, Long.MAX_VALUE, ""));

        Hostile slow = new Hostile("unload hangs");
        new LoadedEngine(choice, slow, 50, 50).close();
        say("unload hangs", slow.closed);

        for (String fault : new String[] {"reload hangs", "answer hangs"}) {
            Hostile stuck = new Hostile(fault);
            try {
                LoadedEngine engine = new LoadedEngine(choice, stuck, 50, 50);
                Session.load(model, choice, Paths.get("/"), engine, (stage, done, total) -> {});
            } catch (EdgeException error) {
                say(fault, error.code(), error.detail(), stuck.closed);
            }
        }

        // A load that is given up, as a cancelled one, returns though the engine goes on; the next waits for its end.
        Hostile late = new Hostile("reload waits");
        LoadedEngine loading = new LoadedEngine(choice, late, 60_000, 60_000);
        Thread load = new Thread(() -> {
            try {
                Session.load(model, choice, Paths.get("/"), loading, (stage, done, total) -> {});
            } catch (InterruptedException cancelled) {
                say("reload waits", "left", late.closed);
            } catch (EdgeException error) {
                throw new AssertionError(error);
            }
        });
        load.start();
        late.loads.await();
        load.interrupt();
        load.join();
        Thread next = new Thread(() -> {
            try {
                new LoadedEngine(choice, new Hostile(), 50, 50).close();
                say("the next", late.closed);
            } catch (EdgeException | InterruptedException error) {
                throw new AssertionError(error);
            }
        });
        next.start();
        next.join(200);
        say("meanwhile", next.isAlive(), late.closed);
        late.goesOn.countDown();
        next.join();

        for (String fault : new String[] {"unload throws", "close throws"}) {
            Hostile fragile = new Hostile(fault);
            Session.load(model, choice, Paths.get("/"), fragile, (stage, done, total) -> {}).close();
            say(fault, fragile.closed);
        }

        Hostile bad = new Hostile("reload throws");
        try {
            Session.load(model, choice, Paths.get("/"), bad, (stage, done, total) -> {});
        } catch (EdgeException error) {
            say("reload throws", error.code(), error.detail(), bad.closed);
        }

        try {
            Session.load(model, choice, Paths.get("/"), new Hostile("open throws"), (stage, done, total) -> {});
        } catch (EdgeException error) {
            say("open throws", error.code(), error.detail());
        }

        Hostile deaf = new Hostile("abort throws");
        Session session = Session.load(model, choice, Paths.get("/"), deaf, (stage, done, total) -> {});
        Conversation chat = session.conversation();
        chat.send("Hi", new Heard("stopped"));
        chat.stop();
        chat.send("Hi", new Heard("after stop"));
        session.close();
    }

    private static void say(Object... words) {
        StringBuilder line = new StringBuilder();
        for (Object word : words) {
            line.append(line.length() == 0 ? "" : " | ").append(word);
        }
        System.out.println(line);
    }

    private static final class Heard implements Listener {
        private final String when;

        private Heard(String when) {
            this.when = when;
        }

        @Override
        public void text(String delta) {}

        @Override
        public void done(Finish finish, Usage usage) {
            say(when, finish);
        }

        @Override
        public void failed(EdgeException error) {
            say(when, error.code(), error.detail());
        }
    }

    /** Answers the first request at once, and others never. */
    private static final class Hostile implements Engine, Engine.Factory {
        private final Set<String> faults;
        private Callbacks callbacks;
        private boolean answered;
        private volatile boolean closed;
        private final CountDownLatch loads = new CountDownLatch(1);
        private final CountDownLatch goesOn = new CountDownLatch(1);

        private Hostile(String... faults) {
            this.faults = new HashSet<>(Arrays.asList(faults));
        }

        @Override
        public Engine open(Choice choice, Callbacks to) {
            fail("open");
            callbacks = to;
            answered = false;
            return this;
        }

        @Override
        public void reload(String engineConfigJson) {
            fail("reload");
            hang("reload");
            loads.countDown();
            if (faults.contains("reload waits")) {
                try {
                    goesOn.await();
                } catch (InterruptedException error) {
                    throw new AssertionError(error);
                }
            }
        }

        @Override
        public void chatCompletion(String requestJson, String requestId) {
            if (!answered && !faults.contains("answer hangs")) {
                answered = true;
                String usage = "{\"prompt_tokens\": 1, \"completion_tokens\": 1, \"extra\": {}}";
                callbacks.responses("[{\"id\": \"" + requestId + "\", \"choices\": [], \"usage\": " + usage + "}]");
            }
        }

        @Override
        public void abort(String requestId) {
            fail("abort");
        }

        @Override
        public void unload() {
            fail("unload");
            hang("unload");
        }

        private void hang(String function) {
            if (faults.contains(function + " hangs")) {
                try {
                    new CountDownLatch(1).await();
                } catch (InterruptedException error) {
                    throw new AssertionError(error);
                }
            }
        }

        @Override
        public void close() {
            closed = true;
            fail("close");
        }

        private void fail(String function) {
            if (faults.contains(function + " throws")) {
                throw new StackOverflowError(function);
            }
        }
    }
}

package edgetransact.tests;

import edgetransact.edge.Choice;
import edgetransact.edge.Engine;
import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.io.OutputStream;
import java.nio.charset.StandardCharsets;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.atomic.AtomicInteger;
import org.json.JSONArray;
import org.json.JSONException;
import org.json.JSONObject;

/** MLC's engine as tests/support/json_ffi stands in for it: another process, behind a pipe. */
final class PipeEngine implements Engine {
    /** The process, which serves one engine after the other. It starts with the first. */
    static final class Factory implements Engine.Factory, AutoCloseable {
        private final List<String> command;
        private Process process;
        private OutputStream calls;
        private final Map<Integer, CompletableFuture<String>> waiting = new ConcurrentHashMap<>();
        private final AtomicInteger number = new AtomicInteger();
        /** Callbacks have a thread of their own, as MLC's stream back loop: they may call functions. */
        private final ExecutorService streamBack = Executors.newSingleThreadExecutor(work -> {
            Thread thread = new Thread(work, "stream back");
            thread.setDaemon(true);
            return thread;
        });
        private volatile Callbacks callbacks;

        Factory(List<String> command) {
            this.command = command;
        }

        @Override
        public Engine open(Choice choice, Callbacks to) {
            callbacks = to;
            if (process == null) {
                start();
            }
            PipeEngine engine = new PipeEngine(this);
            call("init_background_engine", choice.device().name(), choice.cores().toString());
            return engine;
        }

        @Override
        public void close() {
            if (process != null) {
                process.destroyForcibly();
            }
        }

        private void start() {
            try {
                process = new ProcessBuilder(command).redirectError(ProcessBuilder.Redirect.INHERIT).start();
            } catch (IOException error) {
                throw new IllegalStateException(error);
            }
            calls = process.getOutputStream();
            Thread reader = new Thread(this::read, "engine");
            reader.setDaemon(true);
            reader.start();
        }

        private void call(String function, String... arguments) {
            int call = number.incrementAndGet();
            CompletableFuture<String> returned = new CompletableFuture<>();
            waiting.put(call, returned);
            try {
                JSONArray list = new JSONArray();
                for (String argument : arguments) {
                    // The encoding of the pipe must not hide what JNI would change.
                    if (!StandardCharsets.US_ASCII.newEncoder().canEncode(argument)) {
                        throw new IllegalArgumentException("not ASCII: " + argument);
                    }
                    list.put(argument);
                }
                String line = new JSONObject()
                        .put("call", call)
                        .put("function", function)
                        .put("arguments", list)
                        .toString();
                synchronized (calls) {
                    calls.write((line + "\n").getBytes(StandardCharsets.US_ASCII));
                    calls.flush();
                }
            } catch (IOException | JSONException error) {
                throw new IllegalStateException(error);
            }
            // As a call through JNI, it can't be interrupted.
            String error = returned.join();
            if (error != null) {
                throw new IllegalStateException(error);
            }
        }

        private void read() {
            try (BufferedReader lines =
                    new BufferedReader(new InputStreamReader(process.getInputStream(), StandardCharsets.UTF_8))) {
                for (String line = lines.readLine(); line != null; line = lines.readLine()) {
                    JSONObject message = new JSONObject(line);
                    if (message.has("call")) {
                        waiting.remove(message.getInt("call"))
                                .complete(message.isNull("error") ? null : message.getString("error"));
                    } else {
                        Callbacks to = callbacks;
                        streamBack.execute(() -> tell(to, message));
                    }
                }
            } catch (IOException | JSONException error) {
                throw new IllegalStateException(error);
            }
            streamBack.execute(() -> callbacks.died("the process ended"));
        }

        private static void tell(Callbacks to, JSONObject message) {
            if (message.has("died")) {
                to.died(message.optString("died"));
            } else {
                to.responses(message.optString("responses"));
            }
        }
    }

    private final Factory factory;

    private PipeEngine(Factory factory) {
        this.factory = factory;
    }

    @Override
    public void reload(String engineConfigJson) {
        factory.call("reload", engineConfigJson);
    }

    @Override
    public void chatCompletion(String requestJson, String requestId) {
        factory.call("chat_completion", requestJson, requestId);
    }

    @Override
    public void abort(String requestId) {
        factory.call("abort", requestId);
    }

    @Override
    public void unload() {
        factory.call("unload");
    }

    @Override
    public void close() {
        factory.call("exit_background_loop");
    }
}

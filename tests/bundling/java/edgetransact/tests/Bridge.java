package edgetransact.tests;

import edgetransact.edge.BenchRun;
import edgetransact.edge.Choice;
import edgetransact.edge.Conversation;
import edgetransact.edge.EdgeException;
import edgetransact.edge.Ending;
import edgetransact.edge.Finish;
import edgetransact.edge.Listener;
import edgetransact.edge.Message;
import edgetransact.edge.Model;
import edgetransact.edge.Models;
import edgetransact.edge.Phone;
import edgetransact.edge.Preference;
import edgetransact.edge.Progress;
import edgetransact.edge.Sampling;
import edgetransact.edge.Session;
import edgetransact.edge.Starts;
import edgetransact.edge.Tool;
import edgetransact.edge.Usage;
import edgetransact.edge.WeightStore;
import java.io.BufferedReader;
import java.io.File;
import java.io.FileInputStream;
import java.io.IOException;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.net.URL;
import java.net.URLConnection;
import java.net.URLStreamHandler;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.Paths;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Timer;
import java.util.TimerTask;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.atomic.AtomicBoolean;
import org.json.JSONArray;
import org.json.JSONException;
import org.json.JSONObject;

/**
 * The edge module as an app uses it, driven by pytest: a command on a line of stdin, its result on a line of stdout,
 * both JSON objects. The arguments of the program start the engine.
 */
final class Bridge {
    private final PipeEngine.Factory engines;
    private Models models;
    private Session session;
    private final Map<String, Conversation> chats = new HashMap<>();

    private Bridge(PipeEngine.Factory engines) {
        this.engines = engines;
    }

    public static void main(String[] command) throws Exception {
        BufferedReader commands = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        PrintStream results = new PrintStream(System.out, true, "UTF-8");
        if (System.getProperty("javax.net.ssl.trustStore") == null) {
            URL.setURLStreamHandlerFactory(protocol -> protocol.equals("https") ? new Server() : null);
        }
        try (PipeEngine.Factory engines = new PipeEngine.Factory(Arrays.asList(command))) {
            Bridge bridge = new Bridge(engines);
            for (String line = commands.readLine(); line != null; line = commands.readLine()) {
                JSONObject result;
                try {
                    result = bridge.run(new JSONObject(line));
                } catch (EdgeException error) {
                    result = new JSONObject().put("error", describe(error));
                } catch (IllegalStateException | IllegalArgumentException error) {
                    result = new JSONObject().put("refused", error.getMessage());
                } catch (InterruptedException error) {
                    result = new JSONObject().put("refused", "interrupted");
                }
                results.println(result);
            }
        }
    }

    private JSONObject run(JSONObject command)
            throws EdgeException, IOException, InterruptedException, JSONException {
        JSONObject result = new JSONObject();
        switch (command.getString("command")) {
            case "models":
                JSONArray modules = command.optJSONArray("modules");
                List<String> texts = new ArrayList<>(Arrays.asList(command.getString("json")));
                for (int index = 0; modules != null && index < modules.length(); index++) {
                    texts.add(modules.getString(index));
                }
                models = Models.read(texts);
                return result.put("models", names());
            case "choose":
                Choice choice = Choice.of(model(command), phone(command), preference(command), starts(command));
                return result.put("device", choice.device().target())
                        .put("reason", choice.reason().name())
                        .put("library", choice.library())
                        .put("cores", new JSONArray(choice.cores()));
            case "prepare":
                return prepare(command, result);
            case "keep_only":
                store(command).keepOnly(models);
                return result;
            case "load":
                return load(command, result);
            case "send":
                return send(command, result);
            case "stop":
                chat(command).stop();
                return result;
            case "chat":
                chats.put(command.getString("chat"), conversation(command));
                return result;
            case "messages":
                return result.put("messages", messages(chat(command).messages()))
                        .put("left_out", chat(command).leftOut());
            case "reset":
                chat(command).reset();
                return result;
            case "close":
                session.close();
                return result;
            case "bench":
                new BenchRun(models, phone(command), store(command), path(command, "scratch"), engines)
                        .run(path(command, "directory"), command.getString("run"));
                return result;
            default:
                throw new IllegalArgumentException(command.toString());
        }
    }

    private JSONArray names() throws JSONException {
        JSONArray names = new JSONArray();
        for (Model model : models.list()) {
            names.put(new JSONObject().put("id", model.id()).put("name", model.name()));
        }
        return names;
    }

    private JSONObject prepare(JSONObject command, JSONObject result)
            throws EdgeException, InterruptedException, JSONException {
        JSONArray heard = new JSONArray();
        if (command.has("interrupt_after_ms")) {
            Thread caller = Thread.currentThread();
            long delay = command.getLong("interrupt_after_ms");
            new Timer(true).schedule(new TimerTask() {
                @Override
                public void run() {
                    caller.interrupt();
                }
            }, delay);
        }
        Path prepared = store(command).prepare(model(command), progress(command, heard));
        return result.put("path", prepared.toString()).put("progress", heard);
    }

    private JSONObject load(JSONObject command, JSONObject result)
            throws EdgeException, InterruptedException, IOException, JSONException {
        Model model = model(command);
        JSONArray heard = new JSONArray();
        Progress progress = progress(command, heard);
        Path weights = path(command, "weights");
        Starts starts = starts(command);
        if (command.has("forget")) {
            starts.forget(model);
        }
        session = Session.start(model, phone(command), preference(command), starts, weights, engines, progress);
        chats.clear();
        chats.put("", session.conversation());
        return result.put("progress", heard)
                .put("device", session.choice().device().target())
                .put("reason", session.choice().reason().name());
    }

    private static Preference preference(JSONObject command) {
        return Preference.valueOf(command.optString("preference", "AUTO"));
    }

    private static Starts starts(JSONObject command) throws IOException {
        Path directory = Paths.get(command.optString("starts", "/dev/null/starts"));
        Ending ending = Ending.valueOf(command.optString("ending", "CRASHED"));
        int own = Integer.parseInt(new File("/proc/self").getCanonicalFile().getName());
        int process = command.optInt("process", own);
        return new Starts(directory, command.optString("driver"), process, earlier -> ending);
    }

    /** Writes progress down; interrupts the thread, or kills the process, at a stage that the command names. */
    private static Progress progress(JSONObject command, JSONArray heard) {
        return (stage, done, total) -> {
            heard.put(new JSONArray().put(stage.name()).put(done).put(total));
            if (stage.name().equals(command.optString("interrupt"))) {
                Thread.currentThread().interrupt();
            }
            if (stage.name().equals(command.optString("killed"))) {
                kill();
            }
        };
    }

    /** Ends the process by a signal. */
    private static void kill() {
        try {
            new ProcessBuilder("sh", "-c", "kill -9 $PPID").start();
            Thread.sleep(60_000); // a signal takes a while on a busy machine
            throw new AssertionError("still alive");
        } catch (IOException | InterruptedException error) {
            throw new AssertionError(error);
        }
    }

    private Conversation conversation(JSONObject command) throws JSONException {
        JSONArray said = command.optJSONArray("history");
        List<Message> history = new ArrayList<>();
        for (int index = 0; said != null && index < said.length(); index++) {
            String text = said.getJSONArray(index).getString(1);
            boolean user = said.getJSONArray(index).getString(0).equals("user");
            history.add(user ? Message.user(text) : Message.assistant(text));
        }
        history.addAll(Message.read(command.optString("written", "[]")));
        String system = command.has("system") ? command.getString("system") : null;
        return session.conversation(system, history, sampling(command.optJSONObject("sampling")));
    }

    private static Sampling sampling(JSONObject set) throws JSONException {
        if (set == null) {
            return Sampling.DEFAULT;
        }
        Sampling.Builder builder = Sampling.builder()
                .temperature(number(set, "temperature"))
                .topP(number(set, "top_p"))
                .frequencyPenalty(number(set, "frequency_penalty"))
                .presencePenalty(number(set, "presence_penalty"))
                .seed(set.has("seed") ? set.getInt("seed") : null)
                .maxTokens(set.has("max_tokens") ? set.getInt("max_tokens") : null);
        List<String> stop = new ArrayList<>();
        for (int index = 0; set.has("stop") && index < set.getJSONArray("stop").length(); index++) {
            stop.add(set.getJSONArray("stop").getString(index));
        }
        List<Tool> tools = new ArrayList<>();
        for (int index = 0; set.has("tools") && index < set.getJSONArray("tools").length(); index++) {
            JSONArray tool = set.getJSONArray("tools").getJSONArray(index);
            tools.add(new Tool(tool.getString(0), tool.getString(1), tool.getString(2)));
        }
        builder.jsonSchema(set.has("schema") ? set.getString("schema") : null)
                .tools(tools)
                .toolChoice(set.has("tool_choice") ? set.getString("tool_choice") : null);
        return builder.stop(stop).build().change().build();
    }

    private static Double number(JSONObject set, String name) {
        return set.has(name) ? set.optDouble(name) : null;
    }

    /** The conversation that a command names, or the one that is there after loading. */
    private Conversation chat(JSONObject command) {
        return chats.get(command.optString("chat"));
    }

    /** Sends a text, or has one answered again; stops the answer after {@code stop_after} pieces, if there are so many. */
    private JSONObject send(JSONObject command, JSONObject result) throws InterruptedException, JSONException {
        Answer answer = new Answer(command.optInt("stop_after", Integer.MAX_VALUE));
        Conversation chat = chat(command);
        if (command.has("text")) {
            chat.send(command.getString("text"), answer);
        } else {
            chat.regenerate(answer);
        }
        if (command.has("twice")) {
            chats.get(command.getString("twice")).send("again", answer);
        }
        answer.enough.await();
        if (!answer.ended) {
            chat.stop();
        }
        return result.put("events", answer.events);
    }

    private static JSONArray messages(List<Message> list) {
        JSONArray messages = new JSONArray();
        for (Message message : list) {
            messages.put(new JSONArray().put(message.role()).put(message.text()));
        }
        return messages;
    }

    private Model model(JSONObject command) throws JSONException {
        String id = command.getString("id");
        return models.list().stream().filter(model -> model.id().equals(id)).findFirst().get();
    }

    private static Phone phone(JSONObject command) throws JSONException {
        boolean openCl = command.getBoolean("open_cl");
        boolean ends = command.optString("killed").equals("OPENCL");
        return new Phone(() -> openCl(openCl, ends), command.getLong("memory"), command.optString("chip"));
    }

    /** Loads the driver, or ends the process as one may that can't be loaded. */
    private static boolean openCl(boolean there, boolean ends) {
        if (ends) {
            kill();
        }
        return there;
    }

    private static WeightStore store(JSONObject command) throws JSONException {
        Path assets = path(command, "assets");
        Path packs = Paths.get(command.optString("packs", "/dev/null"));
        Server.port = command.optInt("port", Server.port);
        return new WeightStore(
                asset -> new FileInputStream(assets.resolve(asset).toFile()),
                name -> Files.isDirectory(packs.resolve(name)) ? packs.resolve(name) : null,
                path(command, "internal"),
                path(command, "external"));
    }

    private static Path path(JSONObject command, String name) throws JSONException {
        return Paths.get(command.getString(name));
    }

    private static JSONObject describe(EdgeException error) throws JSONException {
        return new JSONObject()
                .put("code", error.code().name())
                .put("detail", error.detail())
                .put("needed", error.needed())
                .put("available", error.available())
                .put("message", error.getMessage());
    }

    /** The test's own server stands for every server, which sees the name of the one that was asked in the path. */
    private static final class Server extends URLStreamHandler {
        private static int port;

        @Override
        protected URLConnection openConnection(URL url) throws IOException {
            if (port < 0) {
                throw new SecurityException("Permission denied (missing INTERNET permission?)");
            }
            String path = "/" + url.getHost() + url.getFile();
            return new URL("http", "127.0.0.1", port, path).openConnection();
        }
    }

    /** Writes down what it hears. */
    private static final class Answer implements Listener {
        private final JSONArray events = new JSONArray();
        private final CountDownLatch enough = new CountDownLatch(1);
        private final AtomicBoolean inside = new AtomicBoolean();
        private final int pieces;
        private volatile boolean ended;

        private Answer(int pieces) {
            this.pieces = pieces;
            if (pieces == 0) {
                enough.countDown();
            }
        }

        @Override
        public void text(String delta) {
            hear("text", delta);
            if (events.length() == pieces) {
                enough.countDown();
            }
        }

        @Override
        public void done(Finish finish, Usage usage) {
            JSONObject counted = new JSONObject();
            try {
                if (usage != null) {
                    counted.put("prompt_tokens", usage.promptTokens())
                            .put("completion_tokens", usage.completionTokens())
                            .put("prefill_tokens_per_s", usage.prefillTokensPerSecond())
                            .put("decode_tokens_per_s", usage.decodeTokensPerSecond())
                            .put("ttft_s", usage.secondsToFirstToken());
                }
            } catch (JSONException error) {
                throw new AssertionError(error);
            }
            end(finish.name(), counted);
        }

        @Override
        public void failed(EdgeException error) {
            try {
                end("FAILED", describe(error));
            } catch (JSONException impossible) {
                throw new AssertionError(impossible);
            }
        }

        private void end(String how, JSONObject what) {
            hear("end", how);
            events.put(what);
            ended = true;
            enough.countDown();
        }

        private void hear(String kind, String what) {
            if (!inside.compareAndSet(false, true) || ended) {
                throw new IllegalStateException("events overlap, or come after the end: " + kind + " " + what);
            }
            events.put(new JSONArray().put(kind).put(what));
            inside.set(false);
        }
    }
}

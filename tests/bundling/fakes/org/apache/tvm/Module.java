package org.apache.tvm;

import java.util.Set;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.atomic.AtomicInteger;
import org.json.JSONArray;
import org.json.JSONException;
import org.json.JSONObject;

/**
 * A stand-in for MLC-LLM's JSON FFI engine, with its functions and its threads. It answers a message word for word. At
 * "die" its background loop ends, as it does while it loads a model whose path has "broken" in it; at "die twice", both
 * loops do. At "go on", and in a benchmark, it answers until it is stopped, unless the prompt is only to be counted. At
 * "recall", it answers with all messages.
 */
public class Module {
    /** Models that were loaded, and not freed again. */
    public static final AtomicInteger LOADED = new AtomicInteger();

    /** Models that were loaded. */
    public static final AtomicInteger LOADS = new AtomicInteger();

    private static final Runnable EXIT = () -> {};

    private final LinkedBlockingQueue<Runnable> work = new LinkedBlockingQueue<>();
    private final LinkedBlockingQueue<String> responses = new LinkedBlockingQueue<>();
    private Function callback;
    private volatile boolean loaded;
    private final Set<String> aborted = ConcurrentHashMap.newKeySet();
    private final AtomicInteger references = new AtomicInteger(1);

    public Function getFunction(String name) {
        references.incrementAndGet();
        Function.Callback body = arguments -> {
            call(name, arguments);
            return null;
        };
        return new Function(body, this::release);
    }

    public void release() {
        if (references.decrementAndGet() == 0) {
            free();
        }
    }

    private void free() {
        if (loaded) {
            loaded = false;
            LOADED.decrementAndGet();
        }
    }

    private void call(String name, TVMValue... arguments) {
        switch (name) {
            case "init_background_engine":
                callback = (Function) arguments[2].value;
                break;
            case "run_background_loop":
                for (Runnable next = take(work); next != EXIT; next = take(work)) {
                    next.run();
                }
                break;
            case "run_background_stream_back_loop":
                for (String next = take(responses); !next.isEmpty(); next = take(responses)) {
                    if (next.equals("no JSON")) {
                        throw new IllegalStateException("the stream is broken");
                    }
                    callback.pushArg(next).invoke();
                }
                break;
            case "exit_background_loop":
                work.add(EXIT);
                responses.add("");
                break;
            case "reload":
                inLoop(() -> {
                    load(arguments[0].asString());
                    loaded = true;
                });
                break;
            case "unload":
                inLoop(this::free);
                break;
            case "chat_completion":
                work.add(() -> answer(arguments[0].asString(), arguments[1].asString()));
                break;
            case "abort":
                aborted.add(arguments[0].asString());
                break;
            default:
                throw new IllegalArgumentException(name);
        }
    }

    /** Like the engine's, a call that blocks never returns if the loop ends. */
    private void inLoop(Runnable task) {
        CountDownLatch done = new CountDownLatch(1);
        work.add(() -> {
            task.run();
            done.countDown();
        });
        try {
            done.await();
        } catch (InterruptedException error) {
            throw new AssertionError(error);
        }
    }

    private static void load(String config) {
        if (config.contains("broken")) {
            throw new IllegalStateException("no such parameter");
        }
        LOADS.incrementAndGet();
        LOADED.incrementAndGet();
    }

    private void answer(String request, String id) {
        try {
            JSONObject asked = new JSONObject(request);
            JSONArray messages = asked.getJSONArray("messages");
            boolean chats = messages.length() > 0;
            String text = chats ? messages.getJSONObject(messages.length() - 1).getString("content") : "go on";
            if (text.equals("die twice")) {
                responses.add("no JSON");
                throw new StackOverflowError("Check failed: twice");
            }
            if (text.equals("die")) {
                throw new IllegalStateException("Check failed: num_rsentries > 0");
            }
            if (text.equals("recall")) {
                text = recall(messages);
            }
            String[] words = text.split("(?<= )");
            boolean endless = text.equals("go on") && asked.optInt("max_tokens") != 1;
            for (int index = 0; index < words.length || endless; index++) {
                if (aborted.contains(id)) {
                    return;
                }
                JSONObject delta = new JSONObject().put("role", "assistant").put("content", words[index % words.length]);
                JSONObject choice = new JSONObject().put("index", 0).put("delta", delta);
                choice.put("finish_reason", index == words.length - 1 && !endless ? "stop" : JSONObject.NULL);
                respond(id, new JSONArray().put(choice), null);
                Thread.sleep(1);
            }
            JSONObject extra = new JSONObject().put("decode_tokens_per_s", 12.5);
            JSONObject usage = new JSONObject().put("prompt_tokens", 10 * messages.length());
            respond(id, new JSONArray(), usage.put("completion_tokens", words.length).put("extra", extra));
        } catch (JSONException | InterruptedException error) {
            throw new AssertionError(error);
        }
    }

    private static String recall(JSONArray messages) throws JSONException {
        StringBuilder all = new StringBuilder();
        for (int index = 0; index < messages.length(); index++) {
            JSONObject message = messages.getJSONObject(index);
            all.append(index == 0 ? "" : ", ").append(message.getString("role")).append(' ');
            all.append(message.getString("content"));
        }
        return all.toString();
    }

    private void respond(String id, JSONArray choices, JSONObject usage) throws JSONException {
        JSONObject response = new JSONObject().put("id", id).put("choices", choices).put("usage", usage);
        responses.add(new JSONArray().put(response).toString());
    }

    private static <T> T take(LinkedBlockingQueue<T> queue) {
        try {
            return queue.take();
        } catch (InterruptedException error) {
            throw new AssertionError(error);
        }
    }
}

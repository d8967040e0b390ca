package edgetransact.edge;

/**
 * MLC-LLM's JSON FFI engine ({@code cpp/json_ffi} of mlc-llm), function by function.
 *
 * <p>An implementation calls the functions of {@code mlc.json_ffi.CreateJSONFFIEngine} and runs both background loops
 * in threads of its own. All strings that are passed to it are ASCII: JNI's strings are not UTF-8, so the core escapes
 * everything else in its JSON.
 *
 * <p>Methods throw {@link RuntimeException} with the engine's words if a function fails.
 */
public interface Engine extends AutoCloseable {
    /** Loads a model; returns when it is loaded. If the background loop ends meanwhile, it never returns. */
    void reload(String engineConfigJson);

    /** Starts an answer; returns at once. */
    void chatCompletion(String requestJson, String requestId);

    /** Ends an answer: nothing of it is heard again, not even a usage block. Returns at once. */
    void abort(String requestId);

    /** Frees the model; returns when it is freed. If the background loop has ended, it never returns. */
    void unload();

    /** Ends the background loops. Nothing is called after this. */
    @Override
    void close();

    /** Hears what the engine says. Called on the engine's threads; never by two at once for {@link #responses}. */
    interface Callbacks {
        /** A JSON list of stream responses, as {@code request_stream_callback} gets it. May be empty. */
        void responses(String json);

        /** A background loop ended with an exception: nothing more will come. */
        void died(String reason);
    }

    /** Makes engines. */
    interface Factory {
        /** Creates an engine for a device and its cores, without a model, and starts its background loops. */
        Engine open(Choice choice, Callbacks callbacks);
    }
}

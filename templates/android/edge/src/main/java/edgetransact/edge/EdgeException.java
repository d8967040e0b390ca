package edgetransact.edge;

import java.util.Locale;

/**
 * What can go wrong with a model on a phone. The code and the figures are for an app's own words in its user's
 * language; the message is for logs.
 */
public final class EdgeException extends Exception {
    /** What went wrong. */
    public enum Code {
        /** {@code models.json} makes no sense. Detail: the entry and what is wrong with it. */
        MODELS_INVALID,
        /** The phone has no OpenCL, and the model has no library for the CPU. Detail: the model's name. */
        NO_LIBRARY,
        /**
         * The GPU failed with the model at an earlier start, and the model has no library for the CPU; or it ended the
         * app, and {@link Preference#GPU} is wanted. {@link Starts#forget} has it tried again. Detail: the model's name.
         */
        GPU_FAILED,
        /** Needed and available: bytes of memory. {@link Phone#ignoringMemory} goes on all the same. */
        TOO_LITTLE_MEMORY,
        /** Android ended the app for want of memory when it loaded this library last. As {@code TOO_LITTLE_MEMORY}. */
        LACKED_MEMORY,
        /** A file of the weights is not on the phone, or only a part of it. Detail: the file. */
        WEIGHTS_MISSING,
        /** A file has another sha256 than its model says. Detail: the file. */
        WEIGHTS_DAMAGED,
        /** Needed and available: bytes of storage. */
        STORAGE_FULL,
        /** A file can't be read or written, for another reason than space. Detail: the reason. */
        STORAGE_FAILED,
        /** A file can't be downloaded. What there is of it stays. Detail: the reason. */
        DOWNLOAD_FAILED,
        /** A message is too long for the model's context window, even without the turns before it. */
        CONTEXT_FULL,
        /** The engine refused something, or ended. Detail: what it said. */
        ENGINE_FAILED
    }

    private static final long serialVersionUID = 1;

    private final Code code;
    private final String detail;
    private final long needed;
    private final long available;

    private EdgeException(Code code, String detail, long needed, long available, Throwable cause) {
        super(message(code, detail, needed, available), cause);
        this.code = code;
        this.detail = detail;
        this.needed = needed;
        this.available = available;
    }

    static EdgeException of(Code code, String detail) {
        return new EdgeException(code, detail, 0, 0, null);
    }

    static EdgeException of(Code code, String detail, Throwable cause) {
        return new EdgeException(code, detail, 0, 0, cause);
    }

    /** For what nobody expected, an {@link Error} too: {@code ENGINE_FAILED}, with its name and message as the detail. */
    public static EdgeException unexpected(Throwable cause) {
        return of(Code.ENGINE_FAILED, cause.toString(), cause);
    }

    static EdgeException tooLittle(Code code, long needed, long available) {
        return new EdgeException(code, "", needed, available, null);
    }

    /** What went wrong. */
    public Code code() {
        return code;
    }

    /** A file, a model or the engine's words, as the code says; may be empty. Plain text, never markup. */
    public String detail() {
        return detail;
    }

    /** What was needed, in bytes; 0 for codes without figures. */
    public long needed() {
        return needed;
    }

    /** What there was, in bytes; 0 for codes without figures. */
    public long available() {
        return available;
    }

    private static String message(Code code, String detail, long needed, long available) {
        String words = code.name().toLowerCase(Locale.ROOT).replace('_', ' ');
        if (needed > 0) {
            return words + ": " + needed + " bytes are needed, " + available + " are available";
        }
        return detail.isEmpty() ? words : words + ": " + detail;
    }
}

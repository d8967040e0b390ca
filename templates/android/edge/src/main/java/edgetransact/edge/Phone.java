package edgetransact.edge;

/** What the phone can do, as far as the choice of a library depends on it. Immutable. */
public final class Phone {
    private final boolean openCl;
    private final long availableMemoryBytes;

    /**
     * @param openCl whether the OpenCL library can be loaded
     * @param availableMemoryBytes memory that the app can still take without others being ended for it
     */
    public Phone(boolean openCl, long availableMemoryBytes) {
        this.openCl = openCl;
        this.availableMemoryBytes = availableMemoryBytes;
    }

    /** Whether the OpenCL library can be loaded. */
    public boolean openCl() {
        return openCl;
    }

    /** Memory that the app can still take, in bytes. */
    public long availableMemoryBytes() {
        return availableMemoryBytes;
    }
}

package edgetransact.edge;

/** What the phone can do, as far as the choice of a library depends on it. Immutable. */
public final class Phone {
    private final boolean openCl;
    private final long availableMemoryBytes;
    private final String chip;

    /**
     * @param openCl whether the OpenCL library can be loaded
     * @param availableMemoryBytes memory that the app can still take without others being ended for it
     * @param chip {@code Build.SOC_MODEL}, or any other text where Android doesn't tell it
     */
    public Phone(boolean openCl, long availableMemoryBytes, String chip) {
        this.openCl = openCl;
        this.availableMemoryBytes = availableMemoryBytes;
        this.chip = chip;
    }

    /** Whether the OpenCL library can be loaded. */
    public boolean openCl() {
        return openCl;
    }

    /** Memory that the app can still take, in bytes. */
    public long availableMemoryBytes() {
        return availableMemoryBytes;
    }

    /**
     * The same phone, on which no model is too large: for users who were warned. Android ends apps in the background
     * for one in front, so a model that doesn't fit now may fit all the same.
     */
    public Phone ignoringMemory() {
        return new Phone(openCl, Long.MAX_VALUE, chip);
    }

    /** Whether it is {@link #ignoringMemory}. */
    boolean ignoresMemory() {
        return availableMemoryBytes == Long.MAX_VALUE;
    }

    /** The model of its chip. */
    public String chip() {
        return chip;
    }
}

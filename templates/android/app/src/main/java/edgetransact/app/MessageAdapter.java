package edgetransact.app;

import android.view.LayoutInflater;
import android.view.View;
import android.view.ViewGroup;
import android.widget.BaseAdapter;
import android.widget.TextView;
import java.util.function.Function;

/** The messages of a chat as rows of a list. */
final class MessageAdapter extends BaseAdapter {
    private static final int MINE = 0;
    private static final int MODEL = 1;

    private final Chat chat;
    private final Function<Chat.Bubble, String> under;

    /** @param under what stands under an answer; may be empty */
    MessageAdapter(Chat chat, Function<Chat.Bubble, String> under) {
        this.chat = chat;
        this.under = under;
    }

    @Override
    public int getCount() {
        return chat.bubbles().size();
    }

    @Override
    public Chat.Bubble getItem(int position) {
        return chat.bubbles().get(position);
    }

    @Override
    public long getItemId(int position) {
        return position;
    }

    @Override
    public int getViewTypeCount() {
        return 2;
    }

    @Override
    public int getItemViewType(int position) {
        return getItem(position).mine ? MINE : MODEL;
    }

    @Override
    public View getView(int position, View recycled, ViewGroup parent) {
        Chat.Bubble bubble = getItem(position);
        View row = recycled;
        if (row == null) {
            int layout = bubble.mine ? R.layout.message_mine : R.layout.message_model;
            row = LayoutInflater.from(parent.getContext()).inflate(layout, parent, false);
        }
        TextView text = row.findViewById(R.id.text);
        text.setText(bubble.text);
        if (!bubble.mine) {
            boolean waiting = bubble.text.length() == 0 && bubble.finish == null && bubble.error == null;
            text.setVisibility(bubble.text.length() == 0 ? View.GONE : View.VISIBLE);
            row.findViewById(R.id.waiting).setVisibility(waiting ? View.VISIBLE : View.GONE);
            TextView note = row.findViewById(R.id.note);
            String words = under.apply(bubble);
            note.setText(words);
            note.setVisibility(words.isEmpty() ? View.GONE : View.VISIBLE);
        }
        return row;
    }
}
